"""Lines over the time of a run, and their axis."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pagecli.profiler.recording.downsampling import Series, bucketed
from pagecli.profiler.report.chart_style import number_axis

_HOUR, _MINUTE = 3600, 60
LONG_RUN = "Of a long run the line is the mean of neighbouring steps, the band their range."


def draw_steps(
    axes: Axes, starts: Series, values: Series, end: float, *, colour: str, filled: bool = False, **line: Any
) -> None:
    """A series that holds each value until the next; `filled` down to zero, and a band over its range where it was reduced."""
    points = bucketed(starts, values)
    x = np.append(points.x, end)
    mean, low, high = (np.append(y, y[-1]) for y in (points.mean, points.low, points.high))
    axes.plot(x, mean, drawstyle="steps-post", color=colour, **line)
    if points.is_reduced:
        axes.fill_between(x, low, high, step="post", color=colour, alpha=0.35, linewidth=0)
    if filled:
        axes.fill_between(x, mean, step="post", color=colour, alpha=0.15, linewidth=0)


def draw_samples(axes: Axes, seconds: Series, values: Series, *, colour: str, **line: Any) -> None:
    """Readings joined by straight lines; with dots where they are few."""
    points = bucketed(seconds, values)
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(values) < 3 else {}
    axes.plot(points.x, points.mean, color=colour, **line, **marker)
    if points.is_reduced:
        axes.fill_between(points.x, points.low, points.high, color=colour, alpha=0.3, linewidth=0)


def time_axis(axes: Axes, end: float) -> None:
    """From the beginning of the recording, in seconds; in minutes and hours where they read better."""
    axes.set_xlim(0, end or 1)
    scale, unit = next(((s, u) for s, u in ((_HOUR, "hours"), (_MINUTE, "minutes")) if end >= 3 * s), (1, "seconds"))
    if scale > 1:
        axes.xaxis.set_major_locator(_ScaledLocator(scale))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:,.10g}"))
    else:
        number_axis(axes.xaxis, nbins=8)
    axes.set_xlabel(f"Time ({unit})")


class _ScaledLocator(MaxNLocator):
    """Round numbers of another unit than the axis is in."""

    def __init__(self, scale: float) -> None:
        super().__init__(nbins=8)
        self._scale = scale

    def tick_values(self, vmin: float, vmax: float) -> Any:
        return np.asarray(super().tick_values(vmin / self._scale, vmax / self._scale)) * self._scale
