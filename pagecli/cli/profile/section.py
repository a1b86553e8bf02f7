"""What each part of a profile adds to the report: fields of the JSON object, and what a person is shown."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pagecli.profiler.measure.sweep import SweepResult
    from pagecli.profiler.recording.records import PolicyResult, Recording


@dataclass(slots=True)
class Section:
    fields: dict[str, Any] = field(default_factory=dict)  # of the JSON object
    shown: "list[RenderableType]" = field(default_factory=list)  # tables and lines on a terminal, in order
    results: "list[PolicyResult]" = field(default_factory=list)  # for the HTML report and the advice
    recording: "Recording | None" = None  # of a run
    sweep: "list[SweepResult]" = field(default_factory=list)
