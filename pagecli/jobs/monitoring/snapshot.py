"""A job at one moment: the one description that the progress bar, events, log, metrics, heartbeat and status all read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

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
