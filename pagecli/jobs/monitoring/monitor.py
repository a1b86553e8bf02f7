"""The snapshot of a running job, kept here and handed to every listener: events, metrics file, log, heartbeat, progress bar.

A listener can fail (a full disk, a reader that went away); the job continues, and the failure is reported once.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pagecli.errors import PagecliError, reason_of
from pagecli.jobs.rows.row import RowEstimate
from pagecli.jobs.storage.job_directory import HEARTBEAT, JobDirectory

Event = Literal["start", "begin", "loaded", "progress", "checkpoint", "stopping", "end"]


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """Rows are the input's, however many samples are written of each; times are seconds since 1970; None: not known."""

    input: str = ""
    output: str = ""
    model: str = ""
    pid: int = 0
    host: str = ""
    started: float = 0.0
    updated: float = 0.0  # when the snapshot was taken
    phase: str = "loading"  # then generating; stopping (a signal came); ended
    num_rows: int = 0  # finished, written or held for their turn
    num_rows_total: int | None = None  # that the input will have yielded at its end
    total_is_exact: bool = False
    num_taken_over: int = 0  # of num_rows, out of the journal of an earlier run
    num_error_rows: int = 0  # of num_rows
    num_running: int = 0  # sequences in the batch
    num_waiting: int = 0  # requests in the engine's queue
    kv_usage: float = 0.0  # used blocks / blocks
    output_tokens: int = 0  # sampled by this run
    output_tokens_per_second: float = 0.0  # since the first progress, as the next
    rows_per_second: float = 0.0
    processes: Sequence[Mapping[str, Any]] = field(default_factory=list)  # ranks or workers, as --stats has them
    eta_seconds: float | None = None
    checkpoint_rows: int | None = None  # synced to the disk
    checkpoint_at: float | None = None
    exit_code: int | None = None  # from here on: once it has ended
    error: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)  # Engine.stats() after loading
    stats: Mapping[str, Any] = field(default_factory=dict)  # what --stats writes; empty if the model was never loaded

    def pick(self, *names: str) -> dict[str, Any]:
        """The fields of these names, floats rounded as they are shown."""
        return {name: _rounded(name, getattr(self, name)) for name in names}


HEARTBEAT_SECONDS = 1.0
PROCESS_FIELDS = {
    "worker": int,
    "rank": int,
    "host": str,
    "pid": int,
    "cpu_isa": str,
    "num_rows": int,
    "num_restarts": int,
    "tokens_per_second": float,
    "kv_usage": float,
    "waited_seconds": float,
}
_LEFT_OUT = ("input", "output", "model", "error", "engine", "stats")  # long, or of no use to status
HEARTBEAT_FIELDS = tuple(field.name for field in fields(JobSnapshot) if field.name not in _LEFT_OUT)


class Listener(Protocol):
    """A consumer of a job's events. Every call must return quickly."""

    name: str  # for a warning when it fails
    interval: float  # seconds between two "progress"

    def on_event(self, event: Event, job: JobSnapshot) -> None:
        """start: nothing was read yet. begin: this run has locked the output and may write it. loaded: the model is.

        progress: at most one an interval. checkpoint: more rows are safe on the disk. stopping: a signal came. end: once,
        however the job ends.
        """
        ...

    def close(self) -> None: ...


_DECIMALS = {"kv_usage": 4, "output_tokens_per_second": 2, "rows_per_second": 3, "eta_seconds": 1}


def _rounded(name: str, value: Any) -> Any:
    return round(value, _DECIMALS[name]) if name in _DECIMALS and value is not None else value


def utc_text(seconds: float) -> str:
    """2026-11-22T22:16:46.123Z from seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


MIN_SECONDS = 0.05  # a rate over less is not meaningful
MIN_SILENCE = 1.0  # seconds without a finished row that say something


class JobMonitor:
    """`snapshot`: the job's latest. Calls of `end` after the first do nothing."""

    def __init__(self, job: JobSnapshot, listeners: list[Listener], warn: Callable[[str], None]) -> None:
        self.snapshot = replace(job, pid=os.getpid(), host=socket.gethostname(), started=time.time())
        self._listeners = [*listeners]
        self._warn = warn
        self._rates = Rates()
        self._next: dict[str, float] = {}  # when a listener takes the next "progress"
        self._failed: set[str] = set()
        self._lock = threading.RLock()  # another thread records a signal

    def start(self) -> None:
        self._emit("start")

    def add(self, listener: Listener) -> None:
        """Add a listener after the start event."""
        self._listeners.append(listener)
        self._tell(listener, "start")

    def begin(self) -> None:
        """Event: this run has locked the output and may write it."""
        self._emit("begin")

    def loaded(self, stats: Mapping[str, Any]) -> None:
        """`stats` are the engine's."""
        self._emit("loaded", phase="generating" if self.snapshot.phase == "loading" else self.snapshot.phase, engine=stats)

    def progress(self, estimate: RowEstimate | None, **fields: Any) -> None:
        """Event, called every step; each listener gets it at most once in its own interval. `fields`: of the snapshot."""
        if estimate is not None:
            fields |= {"num_rows_total": max(estimate.num_rows, fields["num_rows"]), "total_is_exact": estimate.exact}
        self._update(**fields)
        self._update(**self._rates.of(self.snapshot))
        now = time.monotonic()
        with self._lock:
            for listener in self._listeners:
                if now >= self._next.get(listener.name, 0.0):
                    self._next[listener.name] = now + listener.interval
                    self._tell(listener, "progress")

    def checkpoint(self, num_rows: int) -> None:
        """Event: `num_rows` rows are synced to the disk."""
        self._emit("checkpoint", checkpoint_rows=num_rows, checkpoint_at=time.time())

    def stopping(self, signum: int) -> None:
        """Event: a signal arrived (any thread may call this); status then reports `stopped`, not `killed`."""
        self._emit("stopping", phase="stopping", exit_code=128 + signum)

    def end(self, exit_code: int, error: str | None = None, stats: Mapping[str, Any] | None = None) -> None:
        """`stats` are what --stats writes; None if the job ended before its model was loaded."""
        if self.snapshot.phase == "ended":
            return
        final: dict[str, Any] = {}
        if stats is not None:
            final = {"stats": stats, "num_rows": stats["num_input_rows"], "num_error_rows": stats["num_error_rows"]}
            final["output_tokens"] = stats["num_sampled_tokens"]
        self._emit("end", phase="ended", exit_code=exit_code, error=error, eta_seconds=None, **final)

    def close(self) -> None:
        for listener in self._listeners:
            self._guard(listener, listener.close)
        self._listeners.clear()

    def _update(self, **changes: Any) -> None:
        with self._lock:
            self.snapshot = replace(self.snapshot, updated=time.time(), **changes)

    def _emit(self, event: Event, **changes: Any) -> None:
        with self._lock:
            self._update(**changes)
            for listener in self._listeners:
                self._tell(listener, event)

    def _tell(self, listener: Listener, event: Event) -> None:
        self._guard(listener, lambda: listener.on_event(event, self.snapshot))

    def _guard(self, listener: Listener, call: Callable[[], None]) -> None:
        try:
            call()
        except (OSError, PagecliError) as error:
            if listener.name not in self._failed:
                self._failed.add(listener.name)
                self._warn(f"{listener.name}: {reason_of(error)}; the job continues")


class Rates:
    """Rows and tokens a second since the first progress, and the time that is left; rows taken over cost none.

    The time left is unknown where no row has finished for longer than all that are left would take: the last rows are long.
    """

    def __init__(self) -> None:
        self._started: float | None = None
        self._first_rows = self._first_tokens = self._last_rows = 0
        self._last_row_at = 0.0

    def of(self, job: JobSnapshot) -> dict[str, float | None]:
        """The snapshot's fields of them."""
        now = time.monotonic()
        num_computed = job.num_rows - job.num_taken_over
        if self._started is None:
            self._started, self._first_rows, self._first_tokens = now, num_computed, job.output_tokens
        if num_computed != self._last_rows:
            self._last_rows, self._last_row_at = num_computed, now
        elapsed = max(now - self._started, 1e-6)
        num_rows, num_tokens = num_computed - self._first_rows, job.output_tokens - self._first_tokens
        left = None
        if job.num_rows_total is not None and num_rows > 0:
            num_left = job.num_rows_total - job.num_rows
            left = num_left * elapsed / num_rows
            if num_left and now - self._last_row_at > max(left, MIN_SILENCE):
                left = None
        counts = elapsed >= MIN_SECONDS
        rates = {"rows_per_second": num_rows, "output_tokens_per_second": num_tokens}
        return {name: count / elapsed if counts else 0.0 for name, count in rates.items()} | {"eta_seconds": left}


class Heartbeat:
    """The listener that writes the file; made once the job's directory is there. Raises InputError, UsageError."""

    interval = HEARTBEAT_SECONDS
    name = "the heartbeat for pagecli status"

    def __init__(self, output: Path) -> None:
        self._directory = JobDirectory(output, create=False)

    def on_event(self, event: Event, job: JobSnapshot) -> None:
        """Raises OSError. A directory that has gone meanwhile belonged to a job that is complete."""
        if event in ("begin", "checkpoint"):
            return
        try:
            self._write(job)
        except FileNotFoundError:
            if self._directory.is_current():
                raise

    def _write(self, job: JobSnapshot) -> None:
        if not self._directory.is_current():
            return
        fd = self._directory.open(f"{HEARTBEAT}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(fd, "wb") as file:
            values = {name: getattr(job, name) for name in HEARTBEAT_FIELDS}
            values["processes"] = [{k: row[k] for k in PROCESS_FIELDS if k in row} for row in job.processes]
            file.write(json.dumps(values).encode("ascii"))
        folder = self._directory.path
        os.replace(folder / f"{HEARTBEAT}.new", folder / HEARTBEAT)

    def close(self) -> None:
        self._directory.close()
