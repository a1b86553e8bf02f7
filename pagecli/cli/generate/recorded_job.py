"""`generate --profile DIR`: records a job and writes its metrics into DIR; an error of the recording never ends the job."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pagecli.cli.generate.options import PROFILE_FILES
from pagecli.cli.profile.report import check_drawing, check_target
from pagecli.cli.terminal.console import Console
from pagecli.errors import InputError, reason_of
from pagecli.jobs.storage.redaction import redact

if TYPE_CHECKING:
    from pagecli.engine.engine import Engine
    from pagecli.profiler.recording.records import Recording

STEPS, TRACE, SUMMARY, REPORT = PROFILE_FILES


def check_profile_directory(directory: Path) -> None:
    """Make the directory, before anything is loaded. Raises InputError if that is not possible, UsageError."""
    check_drawing("--profile")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--profile {directory}: {reason_of(error)}", "name a directory that can be made") from error
    for name in (STEPS, TRACE, SUMMARY, REPORT):
        check_target("--profile", directory / name)


@contextmanager
def recorded_job(directory: Path, engine: "Engine", title: str, console: Console) -> Iterator[None]:
    """Records the engine inside the block, and writes the files however it ends."""
    from pagecli.profiler.recording.engine_recording import EngineRecording

    recorded = EngineRecording(redact(title), engine, redact(engine.config.model), directory / STEPS)
    try:
        yield
    finally:
        recording = recorded.finish()
        if recorded.problem is not None:
            console.warning(f"the profile is not complete: {recorded.problem.message}")
        write_files(directory, recording, console)


def write_files(directory: Path, recording: "Recording", console: Console) -> None:
    """trace.json, summary.json and report.html beside the steps; a problem with one is a warning."""
    from pagecli.profiler.recording.run_summary import summarize
    from pagecli.profiler.recording.steps_file import read_steps
    from pagecli.profiler.recording.trace_file import write_trace
    from pagecli.profiler.report.advice import advice

    def write_summary() -> None:
        (directory / SUMMARY).write_text(json.dumps(summarize(recording), indent=2, default=str) + "\n", encoding="utf-8")

    def write_trace_of_all() -> None:
        steps = None if recording.step_stride == 1 else read_steps(directory / STEPS)
        write_trace(directory / TRACE, recording, steps)

    def write_page() -> None:
        from pagecli.profiler.report.html import write_report  # loads matplotlib

        write_report(directory / REPORT, None, None, recording)

    written_or_warned((write_summary, write_trace_of_all, write_page), console)
    console.note(f"profile: {directory / REPORT}")
    if (said := advice(None, recording)) is not None:
        console.note(f"advice: {said}")


def written_or_warned(writers: Iterable[Callable[[], None]], console: Console) -> None:
    """Calls each; a problem with one is a warning, as a chart that cannot be drawn must not take the job with it."""
    for write in writers:
        try:
            write()
        except Exception as error:
            console.warning(f"the profile is not complete: {reason_of(error)}")
