"""What a running job tells `pagecli status`: `heartbeat.json` in the job's directory, replaced about once a second.

It is only to look at: nothing of a job depends on it, so that it is not forced to the disk, and a damaged one counts as none.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pagecli.errors import PagecliError
from pagecli.jobs.monitoring.events import JobEnd, JobFacts, Look
from pagecli.jobs.storage.job_directory import JobDirectory

HEARTBEAT = "heartbeat.json"
HEARTBEAT_SECONDS = 1.0
MAX_BYTES = 1 << 16


@dataclass(slots=True)
class HeartbeatFigures:
    """The last sign of life; times are seconds since 1970. `phase`: loading, generating, stopping (a signal came) or ended."""

    pid: int = 0
    host: str = ""
    started: float = 0.0
    updated: float = 0.0
    phase: str = "loading"
    num_rows: int = 0
    num_rows_total: int | None = None
    total_is_exact: bool = False
    num_error_rows: int = 0
    num_taken_over: int = 0
    output_tokens: int = 0
    output_tokens_per_second: float = 0.0
    rows_per_second: float = 0.0
    eta_seconds: float | None = None
    kv_usage: float = 0.0
    checkpoint_rows: int | None = None
    checkpoint_at: float | None = None
    exit_code: int | None = None


class Heartbeat:
    """The watcher that writes the file; made once the job's directory is there. Raises InputError, UsageError."""

    interval = HEARTBEAT_SECONDS
    name = "the heartbeat for pagecli status"

    def __init__(self, output: Path) -> None:
        self._directory = JobDirectory(output, create=False)
        self._figures = HeartbeatFigures()
        self._lock = threading.Lock()  # a signal is noted by another thread

    def started(self, facts: JobFacts) -> None:
        self._figures.pid, self._figures.host, self._figures.started = facts.pid, facts.host, facts.started
        self._write()

    def begun(self) -> None: ...

    def loaded(self, stats: Mapping[str, Any]) -> None:
        if self._figures.phase == "loading":
            self._figures.phase = "generating"
        self._write()

    def stopping(self, signum: int) -> None:
        """Notes that a signal came, from any thread: however the process ends now, it was not killed without a word."""
        self._figures.phase, self._figures.exit_code = "stopping", 128 + signum
        self._write()

    def progress(self, look: Look) -> None:
        figures, progress = self._figures, look.progress
        if progress.estimate is not None:
            figures.num_rows_total = max(progress.estimate.num_rows, progress.num_rows)
            figures.total_is_exact = progress.estimate.exact
        for name in ("num_rows", "num_error_rows", "num_taken_over", "output_tokens", "kv_usage"):
            setattr(figures, name, getattr(progress, name))
        figures.output_tokens_per_second = look.output_tokens_per_second
        figures.rows_per_second = look.rows_per_second
        figures.eta_seconds = look.eta_seconds
        self._write()

    def checkpoint(self, num_rows: int) -> None:
        self._figures.checkpoint_rows, self._figures.checkpoint_at = num_rows, time.time()

    def ended(self, end: JobEnd) -> None:
        self._figures.phase, self._figures.exit_code, self._figures.eta_seconds = "ended", end.exit_code, None
        if end.stats is not None:
            self._figures.num_rows = end.stats["num_input_rows"]
            self._figures.num_error_rows = end.stats["num_error_rows"]
        self._write()

    def close(self) -> None:
        self._directory.close()

    def _write(self) -> None:
        """Raises OSError. A directory that has gone meanwhile belonged to a job that is complete."""
        with self._lock:
            self._figures.updated = time.time()
            content = json.dumps(asdict(self._figures)).encode("ascii")
            if not self._directory.is_current():
                return
            fd = self._directory.open(f"{HEARTBEAT}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            folder = self._directory.path
            os.replace(folder / f"{HEARTBEAT}.new", folder / HEARTBEAT)


def read_heartbeat(output: Path) -> HeartbeatFigures | None:
    """The last sign of life of the job of `output`; None if there is none that can be read."""
    try:
        directory = JobDirectory(output, create=False)
    except PagecliError:
        return None
    try:
        with os.fdopen(directory.open(HEARTBEAT, os.O_RDONLY), "rb") as file:
            values = json.loads(file.read(MAX_BYTES))
        known = {field.name for field in fields(HeartbeatFigures)}
        figures = HeartbeatFigures(**{name: value for name, value in values.items() if name in known})
        return figures if _is_sound(figures) else None
    except (OSError, ValueError, TypeError, AttributeError, PagecliError):
        return None
    finally:
        directory.close()


def _is_sound(figures: HeartbeatFigures) -> bool:
    """Whether every figure is of its type, as in a file that pagecli wrote."""
    defaults = HeartbeatFigures(num_rows_total=0, eta_seconds=0.0, checkpoint_rows=0, checkpoint_at=0.0, exit_code=0)
    for field in fields(HeartbeatFigures):
        value, wanted = getattr(figures, field.name), type(getattr(defaults, field.name))
        optional = getattr(HeartbeatFigures(), field.name) is None
        number_for_float = wanted is float and type(value) is int
        if not (type(value) is wanted or number_for_float or (value is None and optional)):
            return False
    return True
