"""report.html, one page that needs no network, and the same charts as PNG files. matplotlib is loaded with this module."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import pagecli
from pagecli.core.file_targets import check_replaceable, is_stream_target, open_stream, resolved_target
from pagecli.errors import InputError, reason_of
from pagecli.profiler.plan.plan import Plan
from pagecli.profiler.recording.records import PolicyResult, Recording
from pagecli.profiler.report import chart_style
from pagecli.profiler.report.content import Report, build_report

if TYPE_CHECKING:
    from pagecli.profiler.measure.sweep import SweepResult

OPEN_ROWS = 8  # tables up to this length are shown without a click


def write_report(
    path: Path,
    plan: Plan | None,
    results: Sequence[PolicyResult] | None,
    recording: Recording | None,
    workload: str | None = None,
    sweep: "Sequence[SweepResult]" = (),
) -> None:
    """Replaces `path` by the page, or writes it to the pipe or device that is there. Raises InputError, UsageError."""
    write_page(path, build_report(plan, results, recording, workload, sweep))


def write_page(path: Path, report: Report) -> None:
    """`write_report` of a report that is built. Raises InputError, UsageError."""
    page = render(report)
    partial: Path | None = None
    try:
        if is_stream_target(path):
            with os.fdopen(open_stream(path), "w", encoding="utf-8") as stream:
                stream.write(page)
            return
        place = resolved_target(path)
        check_replaceable(place)
        partial = place.with_name(f".{place.name[:100]}.{os.getpid()}.partial")
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, place)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason_of(error)}", "write the report to another place") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def render(report: Report) -> str:
    """The page. Whatever comes from data is escaped, by jinja2 in the page and by matplotlib in its pictures."""
    environment = Environment(loader=PackageLoader("pagecli.profiler.report"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html").render(
        report=report,
        pictures={chart.name: Markup(chart_style.svg(chart)) for chart in report.charts},
        version=pagecli.__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        open_rows=OPEN_ROWS,
    )


def write_plots(
    directory: Path,
    plan: Plan | None,
    results: Sequence[PolicyResult] | None,
    recording: Recording | None,
    workload: str | None = None,
    sweep: "Sequence[SweepResult]" = (),
) -> list[Path]:
    """Writes each chart as NAME.png into the directory, which is made if it is not there. Raises InputError."""
    report = build_report(plan, results, recording, workload, sweep)
    paths = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for chart in report.charts:
            paths.append(directory / f"{chart.name}.png")
            chart_style.png(chart, paths[-1])
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {reason_of(error)}", "write the plots elsewhere") from error
    return paths
