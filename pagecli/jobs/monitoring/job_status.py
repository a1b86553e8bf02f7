"""The state of an output's job, running or not: from its journal, its lock, its heartbeat, and the output itself.

complete  the output is there, and no job works on it
running   a process works on it now
stopped   it ended before its last row in an orderly way: a signal, an error; the same command resumes it
killed    its process ended without a note (SIGKILL, a power failure, a signal in a call that holds the interpreter's lock); the
          same command resumes it
none      neither output nor job

The heartbeat is a file in the directory of the job, `heartbeat.json`, which a running job replaces about once a second. No job
depends on it, so it is not synced to the disk, and a damaged one counts as none. Another process reads all of this without a
lock and changes nothing.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pagecli.core import file_targets
from pagecli.core.json_text import parsed
from pagecli.errors import InputError, PagecliError, reason_of
from pagecli.jobs.journal.job_lock import STALE_SECONDS, LockOwner, read_owner
from pagecli.jobs.journal.journal import JournalContents
from pagecli.jobs.monitoring.monitor import HEARTBEAT_FIELDS, PROCESS_FIELDS, JobSnapshot
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.job_directory import (
    HEARTBEAT,
    LOCK,
    DirectoryGoneError,
    JobDirectory,
    job_directory_path,
    read_outcome,
)
from pagecli.jobs.storage.records import is_time

MAX_BYTES = 1 << 20  # of the heartbeat
TIMES = ("checkpoint_at", "started", "updated")


def read_heartbeat(output: Path) -> JobSnapshot | None:
    """The last heartbeat of the job of `output`; None if there is none that can be read."""
    try:
        directory = JobDirectory(output, create=False)
    except PagecliError:
        return None
    try:
        with os.fdopen(directory.open(HEARTBEAT, os.O_RDONLY), "rb") as file:
            values = parsed(file.read(MAX_BYTES))
        found = {name: value for name, value in values.items() if name in HEARTBEAT_FIELDS}
        return JobSnapshot(**found) if _is_sound(found) else None
    except (OSError, ValueError, TypeError, AttributeError, PagecliError):
        return None
    finally:
        directory.close()


def _is_sound(values: dict[str, Any]) -> bool:
    """Whether every value is of its field's type, as in a file that pagecli wrote."""
    empty = JobSnapshot()
    numbers = {"num_rows_total": int, "eta_seconds": float, "checkpoint_rows": int, "checkpoint_at": float, "exit_code": int}
    for row in values.get("processes") or ():
        if not isinstance(row, dict) or any(not isinstance(v, (PROCESS_FIELDS.get(k, int), int)) for k, v in row.items()):
            return False
    for name, value in values.items():
        default = getattr(empty, name)
        wanted = numbers[name] if default is None else type(default)
        number_for_float = wanted is float and type(value) is int
        if not (type(value) is wanted or number_for_float or (value is None and default is None)):
            return False
        if name in TIMES and value is not None and not is_time(value):
            return False
    return True


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """Counts of what is in the journal: rows that are safe whatever happens to the process."""

    job: dict[str, Any]  # the job's identity (job_identity.py); empty if it cannot be read
    num_input_rows: int  # input rows that are finished
    num_rows: int  # output rows of them
    num_error_rows: int
    last_row_at: float | None  # seconds since 1970; when the journal last grew
    owner: LockOwner | None  # the process that runs it, or ran it when killed; None: it ended by itself
    is_running: bool | None  # None: on another host, cannot be told
    is_complete: bool  # the output is complete; only the journal was not removed


def read_journal_status(output: Path) -> JournalStatus | None:
    """None if `output` has no journal: its job is complete, or was never begun. Raises InputError, UsageError.

    Reads the whole journal: about a second for a million rows.
    """
    try:
        directory = JobDirectory(output, create=False)
    except DirectoryGoneError:
        return None
    try:
        owner = read_owner(directory)
        contents = JournalContents(directory)
        contents.close()
        return JournalStatus(
            job=contents.job or {},
            num_input_rows=contents.num_input_rows,
            num_rows=contents.num_rows,
            num_error_rows=contents.num_error_rows,
            last_row_at=contents.last_row_at,
            owner=owner,
            is_running=False if owner is None else (owner.is_running if owner.is_here else None),
            is_complete=read_outcome(directory)[1],
        )
    finally:
        directory.close()


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
    processes: Sequence[Mapping[str, Any]] = ()  # its ranks or workers
    checkpoint_rows: int | None = None  # input rows that are synced to the disk
    checkpoint_at: float | None = None  # seconds since 1970, as the other times
    pid: int | None = None  # of the process that runs it, or ran it last
    host: str | None = None
    started: float | None = None
    updated: float | None = None  # the last sign of life
    exit_code: int | None = None  # of a job that was stopped
    num_parts: int | None = None  # of a job in automatic parts (jobs/shards/parts_status.py)
    num_parts_complete: int | None = None
    num_parts_running: int | None = None


def job_status(output: str) -> JobStatus:
    """Raises InputError, UsageError if the journal or the output cannot be read."""
    local_path = file_targets.local_output_path(output)
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
OF_A_RUNNING_JOB = ("phase", "output_tokens_per_second", "rows_per_second", "eta_seconds", "processes")


def _with_heartbeat(status: JobStatus, heartbeat: JobSnapshot) -> JobStatus:
    names: tuple[str, ...] = OF_ANY_JOB
    if heartbeat.checkpoint_at is not None and heartbeat.checkpoint_rows is not None:
        names += ("checkpoint_rows", "checkpoint_at")
    if not status.num_rows:  # without a journal
        names += ("num_rows", "num_error_rows")
    if status.state is JobState.running:
        names += OF_A_RUNNING_JOB
    values: dict[str, Any] = {name: getattr(heartbeat, name) for name in names}
    return replace(status, **values)


def _without_job(output: str) -> JobStatus:
    if file_targets.is_remote(output):
        exists = remote_files.exists(output)
        return JobStatus(output, JobState.complete if exists else JobState.none)
    path = Path(file_targets.local(output))
    if not path.is_file():
        return JobStatus(output, JobState.none)
    num_rows = num_rows_of(path)
    return JobStatus(output, JobState.complete, num_rows=num_rows, num_rows_total=num_rows, total_is_exact=num_rows is not None)


def num_rows_of(path: Path) -> int | None:
    """Rows of a complete output; None where counting would read it for long. Raises InputError, also for what is no file."""
    try:
        if not path.is_file():
            raise InputError(f"{path} is no file", "pagecli has not written it")
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
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error
    return None


def _lock_time(local_path: Path) -> float | None:
    try:
        return os.stat(job_directory_path(local_path) / LOCK, follow_symlinks=False).st_mtime
    except OSError:
        return None
