"""The sections of a profile, and the reports made of them: the line of advice, report.html, plots."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagecli.cli.profile.options import ProfileOptions
from pagecli.core.file_targets import check_replaceable, is_stream_target, resolved_target
from pagecli.errors import InputError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pagecli.profiler.measure.sweep import SweepResult
    from pagecli.profiler.plan.plan import Plan
    from pagecli.profiler.recording.records import PolicyResult, Recording


@dataclass(slots=True)
class Section:
    """A part of a profile: fields of the JSON object, and tables for the terminal."""

    fields: dict[str, Any] = field(default_factory=dict)  # of the JSON object
    shown: "list[RenderableType]" = field(default_factory=list)  # tables and lines on a terminal, in order
    results: "list[PolicyResult]" = field(default_factory=list)  # for the HTML report and the advice
    recording: "Recording | None" = None  # of a run
    sweep: "list[SweepResult]" = field(default_factory=list)


def check_reports(options: ProfileOptions) -> None:
    """Refuse report paths that cannot be written, before any work is done. Raises InputError, UsageError."""
    html, plots = options.html, options.plots
    if html is not None or plots is not None:
        check_drawing("--html" if html is not None else "--plots")
    if html is not None:
        check_target("--html", html)
    if plots is not None and plots.exists() and not plots.is_dir():
        raise InputError(f"--plots {plots}: not a directory", "name a directory, which may be new")


def check_drawing(flag: str) -> None:
    """Raises UsageError where no charts can be drawn."""
    if find_spec("matplotlib") is None:
        raise UsageError(f"{flag}: its charts need matplotlib, which is not installed", "pip install 'pagecli[report]'")


def check_target(flag: str, path: Path) -> None:
    """Raises InputError, UsageError for a path that cannot become a file and is no stream."""
    if is_stream_target(path):
        return
    target = resolved_target(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(f"{flag} {path}: not a file in a directory that exists", "name a file")
    check_replaceable(target)


def advice_section(sections: Sequence[Section]) -> Section:
    """One line where the numbers of the other sections show a cause; empty where they do not."""
    from rich.text import Text

    from pagecli.profiler.report.advice import advice

    said = advice(_results(sections), _recording(sections))
    return Section({"advice": said}, [Text(f"Advice: {said}.", "yellow")] if said else [])


def write_reports(options: ProfileOptions, plan: "Plan", workload: str, sections: Sequence[Section]) -> list[Path]:
    """Writes what --html and --plots ask for; returns the files. Raises InputError."""
    html, plots = options.html, options.plots
    if html is None and plots is None:
        return []
    from pagecli.profiler.report.html import write_plots, write_report

    sweep = [point for section in sections for point in section.sweep]
    shown = plan, _results(sections), _recording(sections), workload, sweep
    written = write_plots(plots, *shown) if plots is not None else []
    if html is not None:
        write_report(html, *shown)
        written.append(html)
    return written


def _results(sections: Sequence[Section]) -> "list[PolicyResult]":
    return [result for section in sections for result in section.results]


def _recording(sections: Sequence[Section]) -> "Recording | None":
    """The first recording of the sections: that of the engine's own policy."""
    return next((section.recording for section in sections if section.recording is not None), None)
