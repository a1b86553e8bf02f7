"""Hands what happens in a job to everybody who watches it: event stream, metrics file, log, heartbeat.

A watcher can fail (a full disk, a reader that went away); the job goes on, and the failure is said once.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from pagecli.errors import PagecliError
from pagecli.jobs.run.job_loop import Progress

MIN_SECONDS = 0.05  # a rate over less says nothing


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known before anything is read; texts have no secrets in them."""

    input: str
    output: str
    model: str
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    started: float = field(default_factory=time.time)  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a running job, with the rates since the first."""

    progress: Progress
    output_tokens_per_second: float
    rows_per_second: float
    eta_seconds: float | None  # None while unknown


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How it ended; `stats` is what --stats writes, None for a job that ended before its model was loaded."""

    exit_code: int
    error: str | None = None
    stats: Mapping[str, Any] | None = None


class Watcher(Protocol):
    """Every call must return quickly; `interval` is the seconds that `progress` is not called again for."""

    name: str
    interval: float

    def started(self, facts: JobFacts) -> None: ...
    def begun(self) -> None: ...
    def loaded(self, stats: Mapping[str, Any]) -> None: ...
    def progress(self, look: Look) -> None: ...
    def checkpoint(self, num_rows: int) -> None: ...
    def ended(self, end: JobEnd) -> None: ...
    def close(self) -> None: ...


class Rates:
    """Rows and tokens a second since the first look, and the time that is left; rows taken over cost none."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._first_rows = self._first_tokens = 0

    def look(self, progress: Progress) -> Look:
        now = time.monotonic()
        num_computed = progress.num_rows - progress.num_taken_over
        if self._started is None:
            self._started, self._first_rows, self._first_tokens = now, num_computed, progress.output_tokens
        elapsed = max(now - self._started, 1e-6)
        num_rows = num_computed - self._first_rows
        left = None
        if progress.estimate is not None and num_rows > 0:
            left = max(progress.estimate.num_rows - progress.num_rows, 0) * elapsed / num_rows
        if elapsed < MIN_SECONDS:
            return Look(progress, 0.0, 0.0, left)
        return Look(progress, (progress.output_tokens - self._first_tokens) / elapsed, num_rows / elapsed, left)


class JobWatch:
    """Tells each watcher; the first call of `ended` is the one that counts."""

    def __init__(self, watchers: list[Watcher], warn: Callable[[str], None]) -> None:
        self._watchers = [*watchers]
        self._warn = warn
        self._rates = Rates()
        self._next: dict[str, float] = {}
        self._failed: set[str] = set()
        self._has_ended = False
        self._facts: JobFacts | None = None

    def add(self, watcher: Watcher) -> None:
        """A watcher that could not be there from the start."""
        self._watchers.append(watcher)
        facts = self._facts
        if facts is not None:
            self._tell(watcher, lambda: watcher.started(facts))

    def started(self, facts: JobFacts) -> None:
        self._facts = facts
        self._tell_all(lambda watcher: watcher.started(facts))

    def begun(self) -> None:
        """The output is this run's own: no other run works on it, and it may be written."""
        self._tell_all(lambda watcher: watcher.begun())

    def loaded(self, stats: Mapping[str, Any]) -> None:
        self._tell_all(lambda watcher: watcher.loaded(stats))

    def update(self, progress: Progress) -> None:
        """Called often; each watcher hears of it as often as it wants."""
        look, now = self._rates.look(progress), time.monotonic()
        for watcher in self._watchers:
            if now >= self._next.get(watcher.name, 0.0):
                self._next[watcher.name] = now + watcher.interval
                self._tell(watcher, lambda watcher=watcher: watcher.progress(look))  # type: ignore[misc]

    def checkpoint(self, num_rows: int) -> None:
        """`num_rows` rows are safe on the disk now, whatever happens."""
        self._tell_all(lambda watcher: watcher.checkpoint(num_rows))

    def ended(self, end: JobEnd) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._tell_all(lambda watcher: watcher.ended(end))

    def close(self) -> None:
        self._tell_all(lambda watcher: watcher.close())
        self._watchers.clear()

    def _tell_all(self, call: Callable[[Watcher], None]) -> None:
        for watcher in self._watchers:
            self._tell(watcher, lambda watcher=watcher: call(watcher))  # type: ignore[misc]

    def _tell(self, watcher: Watcher, call: Callable[[], None]) -> None:
        try:
            call()
        except (OSError, PagecliError) as error:
            if watcher.name not in self._failed:
                self._failed.add(watcher.name)
                self._warn(f"{watcher.name}: {error}; the job goes on")


def utc_text(seconds: float) -> str:
    """2026-11-22T22:16:46.123Z from seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
