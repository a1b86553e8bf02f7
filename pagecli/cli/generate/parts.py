"""`generate --shard auto/N`: takes one part of the job after the other, beside any number of other processes; the last merges.

Start it any number of times, anywhere, at any time: a part is the lowest that is neither complete nor locked. A process that
finds no free part waits until the job is complete, and takes over the part of a process that dies.
"""

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from pagecli.cli.generate.job import GenerateJob, check_parts_order, identify
from pagecli.cli.generate.model_defaults import with_model_defaults
from pagecli.cli.generate.run import OnePart, load_engine, run_generate
from pagecli.cli.terminal.console import Console
from pagecli.core import file_targets
from pagecli.engine.loaded_model import resolve
from pagecli.errors import ExitCode, UsageError
from pagecli.jobs.journal.job_lock import OutputLocked
from pagecli.jobs.run.stop_signals import StopRequested, stop_signals
from pagecli.jobs.shards.part_directory import MergedRecord, PartDirectory
from pagecli.jobs.writers.open_output import DATABASE_SUFFIXES, is_stream_output, suffix_of

if TYPE_CHECKING:
    from pagecli.engine.engine import Engine
    from pagecli.jobs.workers.pool import EnginePool

WAIT_SECONDS = 0.5  # between two looks for a part, when there was none


def run_parts(job: GenerateJob, console: Console) -> int:
    """Runs parts until the job is complete; returns its exit code. Raises PagecliError, StopRequested."""
    _check(job)
    count = job.selection.num_parts
    assert count is not None
    parts = PartDirectory(Path(file_targets.local(job.output)), count)
    parts.check_output_is_free(job.overwrite)
    asked, found = job.prompts.template_time, resolve(job.engine)

    def key_at(now: datetime) -> str:
        quiet = Console(quiet=True)  # each part's run warns
        part = with_model_defaults(_part(job, parts, 1, asked or now), found.source, quiet)
        return identify(part, found).key(asked or now)

    shared = parts.agree(asked or datetime.now().replace(microsecond=0), key_at, job.overwrite)
    own_parts = _Parts(job, parts, asked or shared, console)
    with contextlib.closing(own_parts):
        while (done := parts.merged()) is None:
            number = parts.next_part()
            if number is not None:
                code = own_parts.run(number)
                if code is not None and (code not in (ExitCode.OK, ExitCode.ROWS) or not parts.is_part_complete(number)):
                    return code
            else:
                _merge_or_wait(job, parts, console)
    return _complete(parts, done, console)


class _Parts:
    """Runs parts one after the other with one engine."""

    def __init__(self, job: GenerateJob, parts: PartDirectory, template_time: datetime, console: Console) -> None:
        self._job, self._parts, self._time, self._console = job, parts, template_time, console
        self._engine: Engine | EnginePool | None = None

    def run(self, number: int) -> int | None:
        """Its exit code; None if another process has taken or completed it meanwhile."""
        part = OnePart(self._load, lambda stats: self._report(number, stats))
        try:
            code = run_generate(_part(self._job, self._parts, number, self._time), self._console, part)
        except UsageError as error:
            if isinstance(error, OutputLocked) or self._parts.is_part_complete(number):
                return None
            raise
        if code == ExitCode.ROWS:
            self._parts.note_errors(number)
        return code

    def _load(self) -> "Engine | EnginePool":
        if self._engine is None:
            self._engine = load_engine(self._job, self._console)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _report(self, number: int, stats: Mapping[str, Any]) -> None:
        errors = f", {stats['num_error_rows']:,} error rows" if stats["num_error_rows"] else ""
        speed = f"{stats['num_rows'] / max(stats['generate_seconds'], 1e-9):,.1f} rows/s"
        self._console.note(f"part {number}/{self._parts.count}: {stats['num_rows']:,} rows{errors}, {speed}")


def _part(job: GenerateJob, parts: PartDirectory, number: int, template_time: datetime) -> GenerateJob:
    """The job of one part."""
    return dataclasses.replace(
        job,
        output=str(parts.part(number)),
        overwrite=False,
        selection=dataclasses.replace(job.selection, shard=f"{number}/{parts.count}"),
        prompts=dataclasses.replace(job.prompts, template_time=template_time),
    )


def _merge_or_wait(job: GenerateJob, parts: PartDirectory, console: Console) -> None:
    """Merges if every part is complete, else waits a while for a part."""
    with stop_signals() as signals:
        try:
            if parts.num_complete < parts.count:
                time.sleep(WAIT_SECONDS)
                return
            merged = parts.merge(job.overwrite, job.formats.compression)
            if merged is not None:
                console.note(f"{merged.num_rows:,} rows of {merged.num_parts} parts in {parts.output}")
        except OutputLocked:
            time.sleep(WAIT_SECONDS)
        except BaseException as error:
            if signals.received is None:
                raise
            console.error(f"stopped by {Signals(signals.received).name}; the same command goes on with the parts")
            raise StopRequested(signals.received) from error


def _complete(parts: PartDirectory, done: MergedRecord, console: Console) -> int:
    console.note(f"{parts.output} is complete: {done.num_rows:,} rows of {parts.count} parts")
    if done.exit_code == ExitCode.ROWS:
        console.error("some rows are error rows", "their column error says why")
    return done.exit_code


def _check(job: GenerateJob) -> None:
    """Raises UsageError for what does not go with parts that many processes write."""
    check_parts_order(job.order)
    if is_stream_output(job.output) or file_targets.is_remote(job.output):
        raise UsageError("--shard auto: parts need an output on a file system", "name a file that all processes can reach")
    if suffix_of(job.output) in DATABASE_SUFFIXES:
        raise UsageError("--shard auto: parts are not merged into a database", "write .parquet, .jsonl, .csv or .tsv")
    if file_targets.is_stream(file_targets.local(job.input)):
        raise UsageError("--shard auto: every process reads the input", "name a file that all processes can reach")
    own_files = {"--stats": job.stats, "--profile": job.profile, "--metrics-file": job.monitoring.metrics_file}
    for flag, given in own_files.items():
        if given is not None:
            raise UsageError(f"{flag} is one process's, and --shard auto has many", f"leave out {flag}, or give --shard I/N")
    for flag, is_given in {"--restart": job.journal.restart, "--partial": job.journal.partial}.items():
        if is_given:
            raise UsageError(f"{flag} does not go with --shard auto", "remove the output's hidden directory of parts")
    if job.retry_errors is not None:
        raise UsageError("--retry-errors does not go with --shard auto", "run it on the merged output, without --shard")
    if not job.journal.enabled:
        raise UsageError("--no-journal does not go with --shard auto", "parts of lost processes resume from their journals")
