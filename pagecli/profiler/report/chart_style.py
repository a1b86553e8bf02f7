"""The style of the report's charts, and their conversion to SVG for a page or PNG files. No pyplot, no global state.

Colours are those of Okabe and Ito, distinct for colour-blind readers; in the page each becomes a CSS variable, so that one
drawing serves light and dark.
"""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

INK, MUTED, GRID, SURFACE = "#24292f", "#57606a", "#d0d7de", "#fefefe"
BLUE, SKY, ORANGE, VERMILION = "#0072b2", "#56b4e9", "#e69f00", "#d55e00"
GREEN, PURPLE, GREY = "#009e73", "#cc79a7", "#8c959f"
_THEMED = (INK, MUTED, GRID, SURFACE, BLUE, SKY, ORANGE, VERMILION, GREEN, PURPLE, GREY)
_NAMES = ("ink", "muted", "grid", "surface", "blue", "sky", "orange", "vermilion", "green", "purple", "grey")
CSS_NAMES = dict(zip(_THEMED, _NAMES, strict=True))  # the page's variable for each colour
ON_DARK, ON_LIGHT = "#ffffff", "#111111"  # text on a filled area, in both themes

WIDTH_INCHES = 9.0
PNG_DPI = 150
_TICK_STEPS = [1, 2, 2.5, 5, 10]
_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, selectable, read aloud
    "svg.hashsalt": "pagecli",  # the same data give the same file
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture with what a reader needs to do without it: a description, and the numbers as a table."""

    name: str  # file name without suffix, and prefix of the ids in its SVG
    title: str
    caption: str  # how to read it
    description: str  # what it shows, in one sentence with numbers: read aloud in place of the picture
    figure: Figure
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    tooltips: dict[str, str] = field(default_factory=dict)  # by the gid of an artist


@contextmanager
def style() -> Iterator[None]:
    """Charts are built and saved inside this; the user's matplotlibrc is ignored."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(height_inches: float, rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width and its axes, row by row."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **settings)
    return figure, [axes for row in grid for axes in row]


def outside_legend(axes: Axes, **settings: Any) -> None:
    """The legend right of the data, in the order in which it is stacked."""
    axes.legend(**{"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0, **settings})


def count_axis(axis: Any) -> None:
    """Whole numbers with thousands separators."""
    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=_TICK_STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def number_axis(axis: Any, nbins: int = 5) -> None:
    """Numbers with as many digits as their size needs."""
    axis.set_major_locator(MaxNLocator(nbins=nbins, steps=_TICK_STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def number_text(value: float) -> str:
    """1,234, 123, 12.3, 1.23."""
    return f"{value:,.{0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2}f}"


def bytes_text(num_bytes: float) -> str:
    """25.8 GiB; up to four significant digits."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(num_bytes) < 1024 or unit == "TiB":
            return f"{num_bytes:,.0f} B" if unit == "B" else f"{num_bytes:,.{0 if abs(num_bytes) >= 100 else 1}f} {unit}"
        num_bytes /= 1024
    raise AssertionError


def seconds_text(seconds: float) -> str:
    """20.1 µs, 1.25 ms, 3.4 s, 2 min 5 s, 1 h 12 min."""
    if 0 < seconds < 0.0009995:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def png(chart: Chart, path: Path) -> None:
    """The chart as a file with its title, on white."""
    with style():
        chart.figure.suptitle(chart.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        chart.figure.savefig(path, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
        chart.figure.suptitle("")


def svg(chart: Chart) -> str:
    """The chart as an <svg> element to stand in a page: ids begin with the chart's name, colours are the page's variables."""
    buffer = io.StringIO()
    with style():
        chart.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = buffer.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    drawn = re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"(\d\.\d\d)\d+", r"\1", path[0]), drawn
    )  # a hundredth of a point is enough
    for gid, text in chart.tooltips.items():
        opening = f'<g id="{gid}">'
        drawn = drawn.replace(opening, f"{opening}<title>{escape(text)}</title>")
    drawn = re.sub(r'\bid="', f'id="{chart.name}-', drawn)
    drawn = re.sub(r'(url\(#|href="#)', rf"\g<1>{chart.name}-", drawn)
    for colour, name in CSS_NAMES.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    return _opened_for_readers(drawn, chart)


def _opened_for_readers(drawn: str, chart: Chart) -> str:
    """The opening tag scales with the page and names the picture for those who do not see it."""
    view_box = re.search(r'viewBox="[^"]*"', drawn)
    assert view_box is not None, "matplotlib gives every SVG a viewBox"
    label = escape(f"{chart.title}. {chart.description}")
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view_box[0]} role="img"'
    return f'{opening} aria-label="{label}" id="{chart.name}-svg">' + drawn[drawn.index(">") + 1 :].strip()


def stacked_bar(
    axes: Axes, y: float, parts: Sequence[tuple[float, str]], gid: str, labels: Sequence[str], **settings: Any
) -> None:
    """One horizontal bar of (length, colour) parts, each labelled inside where its label fits; gids are `gid`-0, -1, ..."""
    left = 0.0
    for index, ((length, colour), label) in enumerate(zip(parts, labels, strict=True)):
        if length > 0:
            bar = axes.barh(y, length, left=left, color=colour, edgecolor=SURFACE, linewidth=0.8, **settings)
            bar[0].set_gid(f"{gid}-{index}")
            if label:
                ink = ON_DARK if colour in {BLUE, VERMILION, GREEN} and "alpha" not in settings else ON_LIGHT
                axes.text(left + length / 2, y, label, ha="center", va="center", color=ink, fontsize=8.5)
        left += length
