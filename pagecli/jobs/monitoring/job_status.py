"""The state of an output's job, running or not: from its journal, its lock, its heartbeat, and the output itself.

complete  the output is there, and no job works on it
running   a process works on it now
stopped   it ended before its last row in an orderly way: a signal, an error; the same command resumes it
killed    its process ended without a record (SIGKILL, a power failure); the same command resumes it
none      neither output nor job
"""

import os
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pagecli.errors import InputError
from pagecli.jobs.journal.job_lock import STALE_SECONDS
from pagecli.jobs.journal.journal_status import JournalStatus, read_journal_status
from pagecli.jobs.monitoring.heartbeat import read_heartbeat
from pagecli.jobs.monitoring.snapshot import JobSnapshot
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.job_directory import LOCK, job_directory_path

MAX_COUNTED_BYTES = 1 << 30  # a larger JSON Lines output is not read through only to count its lines
COUNT_BYTES = 1 << 20


class JobState(StrEnum):
    complete = "complete"
    running = "running"
    stopped = "stopped"
    killed = "killed"
    none = "none"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Rows are input rows while a job runs or waits to be resumed, rows of the output once it is complete; None: not known."""

    output: str
    state: JobState
    phase: str | None = None  # of a running job: loading, generating, stopping
    num_rows: int | None = None
    num_rows_total: int | None = None
    total_is_exact: bool = False
    num_error_rows: int | None = None
    num_taken_over: int | None = None
    output_tokens: int | None = None
    output_tokens_per_second: float | None = None  # of a running job, as the two that follow
    rows_per_second: float | None = None
    eta_seconds: float | None = None
    checkpoint_rows: int | None = None  # input rows that are synced to the disk
    checkpoint_at: float | None = None  # seconds since 1970, as the other times
    pid: int | None = None  # of the process that runs it, or ran it last
    host: str | None = None
    started: float | None = None
    updated: float | None = None  # the last sign of life
    exit_code: int | None = None  # of a job that was stopped


def job_status(output: str) -> JobStatus:
    """Raises InputError, UsageError if the journal or the output cannot be read."""
    local_path = remote_files.local_output_path(output)
    journal = read_journal_status(local_path)
    if journal is None or (journal.is_complete and not journal.is_running):
        return _without_job(output)
    heartbeat = read_heartbeat(local_path)
    status = JobStatus(
        output=output,
        state=_state(local_path, journal, heartbeat),
        num_rows=journal.num_input_rows,
        num_error_rows=journal.num_error_rows,
        checkpoint_rows=journal.num_input_rows,
        checkpoint_at=journal.last_row_at,
    )
    if journal.owner is not None:
        owner = journal.owner
        status = replace(status, pid=owner.pid, host=owner.host, started=owner.started, updated=_lock_time(local_path))
    if heartbeat is None or (journal.owner is not None and heartbeat.pid != journal.owner.pid):
        return status
    return _with_heartbeat(status, heartbeat)


def _state(local_path: Path, journal: JournalStatus, heartbeat: JobSnapshot | None) -> JobState:
    if journal.owner is None:
        return JobState.stopped
    running = journal.is_running
    if running is None:  # on another host: its lock is touched as long as it lives
        running = time.time() - (_lock_time(local_path) or 0.0) < STALE_SECONDS
    if running:
        return JobState.running
    was_told = heartbeat is not None and heartbeat.pid == journal.owner.pid and heartbeat.phase in ("stopping", "ended")
    return JobState.stopped if was_told else JobState.killed


OF_ANY_JOB = (
    *("num_rows_total", "total_is_exact", "num_taken_over", "output_tokens", "pid", "host", "started", "updated"),
    "exit_code",
)
OF_A_RUNNING_JOB = ("phase", "output_tokens_per_second", "rows_per_second", "eta_seconds")


def _with_heartbeat(status: JobStatus, heartbeat: JobSnapshot) -> JobStatus:
    names: tuple[str, ...] = OF_ANY_JOB
    if heartbeat.checkpoint_at is not None:
        names += ("checkpoint_rows", "checkpoint_at")
    if not status.num_rows:  # without a journal
        names += ("num_rows", "num_error_rows")
    if status.state is JobState.running:
        names += OF_A_RUNNING_JOB
    values: dict[str, Any] = {name: getattr(heartbeat, name) for name in names}
    return replace(status, **values)


def _without_job(output: str) -> JobStatus:
    if remote_files.is_remote(output):
        exists = remote_files.exists(output)
        return JobStatus(output, JobState.complete if exists else JobState.none)
    path = Path(remote_files.local(output))
    if not path.is_file():
        return JobStatus(output, JobState.none)
    num_rows = num_rows_of(path)
    return JobStatus(output, JobState.complete, num_rows=num_rows, num_rows_total=num_rows, total_is_exact=num_rows is not None)


def num_rows_of(path: Path) -> int | None:
    """Rows of a complete output; None where counting would read it for long. Raises InputError."""
    try:
        if path.suffix in (".parquet", ".pq"):
            from pyarrow import ArrowException, parquet

            try:
                return int(parquet.read_metadata(path).num_rows)
            except ArrowException as error:
                raise InputError(f"{path}: not a Parquet file", "it was not written by pagecli, or is damaged") from error
        if path.suffix == ".jsonl" and path.stat().st_size <= MAX_COUNTED_BYTES:
            with path.open("rb") as file:
                return sum(piece.count(b"\n") for piece in iter(lambda: file.read(COUNT_BYTES), b""))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return None


def _lock_time(local_path: Path) -> float | None:
    try:
        return os.stat(job_directory_path(local_path) / LOCK, follow_symlinks=False).st_mtime
    except OSError:
        return None
