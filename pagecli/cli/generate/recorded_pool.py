"""`generate --profile DIR` of a pool: each worker records its engine, and sends what it recorded at the end of the job.

DIR/report.html, summary.json                               all workers, a section and an entry each
DIR/worker-N/steps.parquet, trace.json, summary.json        one worker's
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagecli.cli.generate.recorded_job import REPORT, STEPS, SUMMARY, TRACE, written_or_warned
from pagecli.cli.terminal.console import Console
from pagecli.jobs.storage.redaction import redact
from pagecli.profiler.recording.engine_recording import WorkerRecording

if TYPE_CHECKING:
    from pagecli.jobs.workers.pool import EnginePool
    from pagecli.profiler.recording.records import Recording

WAIT_SECONDS = 2.0  # for a worker's recording, as it may be in a step; a job that was stopped has 4 seconds to end


def recording_of_workers(input: str, model: str) -> WorkerRecording:
    """What each worker of a pool is sent."""
    return WorkerRecording(redact(f"{input} on {model}"), redact(model))


@contextmanager
def recorded_pool(directory: Path, pool: "EnginePool", title: str, console: Console) -> Iterator[None]:
    """Writes the files of a pool whose workers record, however the block ends."""
    try:
        yield
    finally:
        recordings, rows = pool.recordings(WAIT_SECONDS), pool.stats()["workers"]
        if missing := [str(row["worker"]) for row in rows if row["worker"] not in recordings]:
            console.warning(f"the profile is not complete: worker {', '.join(missing)} sent no recording")
        if recordings:
            _write_files(directory, redact(title), rows, recordings, console)


def _write_files(
    directory: Path, title: str, rows: list[dict[str, Any]], recordings: "Mapping[int, Recording]", console: Console
) -> None:
    from pagecli.profiler.recording.run_summary import SCHEMA_VERSION, summarize

    def write_summary() -> None:
        workers = [row | {"summary": summarize(recordings[row["worker"]])} for row in rows if row["worker"] in recordings]
        about = {"schema_version": SCHEMA_VERSION, "title": title, "workers": workers}
        (directory / SUMMARY).write_text(json.dumps(about, indent=2, default=str) + "\n", encoding="utf-8")

    def write_page() -> None:
        from pagecli.profiler.report.html import write_page  # loads matplotlib
        from pagecli.profiler.report.pool_report import pool_report

        write_page(directory / REPORT, pool_report(title, rows, recordings))

    def write_workers() -> None:
        for number, recording in recordings.items():
            _write_worker(directory / f"worker-{number}", recording)

    written_or_warned((write_summary, write_workers, write_page), console)
    console.note(f"profile: {directory / REPORT}")


def _write_worker(directory: Path, recording: "Recording") -> None:
    """Of a long run the steps that were kept."""
    from dataclasses import astuple

    from pagecli.profiler.recording.run_summary import summarize
    from pagecli.profiler.recording.steps_file import StepsFile
    from pagecli.profiler.recording.trace_file import write_trace

    directory.mkdir(exist_ok=True)
    (directory / SUMMARY).write_text(json.dumps(summarize(recording), indent=2, default=str) + "\n", encoding="utf-8")
    steps = StepsFile(directory / STEPS, recording.metadata | {"step_stride": recording.step_stride})
    if recording.steps:
        steps.write([astuple(step) for step in recording.steps])
    steps.close()
    write_trace(directory / TRACE, recording)
