"""Charts of a run: KV memory and batch over time, step time by phase, latencies of its requests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pagecli.profiler.recording.downsampling import Series, bucket_edges, bucketed, column
from pagecli.profiler.recording.latency import PERCENTILES, LatencyKind, latencies
from pagecli.profiler.recording.records import Recording, RequestRecord, StepRecord
from pagecli.profiler.recording.run_totals import block_size_of, end_seconds, metadata_int, num_steps, total
from pagecli.profiler.report.chart_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Chart,
    count_axis,
    new_figure,
    number_axis,
    outside_legend,
    seconds_text,
)
from pagecli.profiler.report.time_series import LONG_RUN, draw_steps, time_axis

PHASES = (
    ("forward", "forward_seconds", BLUE),
    ("sample", "sample_seconds", ORANGE),
    ("prepare", "prepare_seconds", GREEN),
    ("schedule", "schedule_seconds", VERMILION),
    ("commit", "commit_seconds", PURPLE),
    ("detokenize", "detokenize_seconds", SKY),
    ("outside the step", "outside_seconds", GREY),
)
TABLE_ROWS = 24  # moments of a run that a table shows


def _moments(count: int) -> list[int]:
    """Indices that a table shows: evenly spread, first and last among them."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, TABLE_ROWS))})


def kv_over_time(recording: Recording) -> Chart | None:
    """Blocks used, shared and cached, and slots filled, as shares of the pool. Without the block size: no filled slots."""
    steps, block_size = recording.steps, block_size_of(recording)
    if not steps:
        return None
    pool = np.maximum(column(steps, "blocks_total"), 1)
    series = {
        "used blocks": (100 * column(steps, "blocks_used") / pool, BLUE),
        "cached, in no block table": (100 * column(steps, "blocks_cached") / pool, PURPLE),
        "shared blocks": (100 * column(steps, "blocks_shared") / pool, ORANGE),
    }
    if block_size:
        series["filled slots"] = (100 * column(steps, "slots_filled") / (pool * block_size), GREEN)
    starts, end = column(steps, "start_seconds"), end_seconds(steps)
    figure, (axes,) = new_figure(3.0)
    for name, (values, colour) in series.items():
        if name in {"used blocks", "filled slots"} or values.any():
            gid = name.replace(",", "").replace(" ", "-")
            draw_steps(axes, starts, values, end, colour=colour, filled=name == "used blocks", label=name, gid=gid)
    peak = max(float(values.max()) for values, _ in series.values())
    axes.set(ylabel="Percent of the KV pool", ylim=(0, min(105.0, peak * 1.15) or 1))
    number_axis(axes.yaxis)
    time_axis(axes, end)
    outside_legend(axes)
    used = series["used blocks"][0]
    filled = f", filled slots {series['filled slots'][0].mean():.1f} % on average" if block_size else ""
    size = f"{steps[-1].blocks_total:,} blocks" + (f" of {block_size} slots" if block_size else "")
    return Chart(
        "kv-over-time",
        "KV memory over time",
        f"Shares of the pool of {size}. Used: assigned to sequences; filled: slots that hold a token's K and V. Between the"
        f" two lines lies what is wasted. {LONG_RUN}",
        f"Used blocks at most {used.max():.1f} %, {used.mean():.1f} % on average{filled}.",
        figure,
        ("time", "used blocks", "shared", "cached", "free", "filled slots"),
        [_kv_row(steps[at]) for at in _moments(len(steps))],
    )


def _kv_row(step: StepRecord) -> tuple[str, ...]:
    counts = (step.blocks_used, step.blocks_shared, step.blocks_cached, step.blocks_free, step.slots_filled)
    return seconds_text(step.start_seconds), *(f"{count:,}" for count in counts)


def batch_over_time(recording: Recording) -> Chart | None:
    """Sequences in a step, tokens in a step, and requests that wait; preemptions as marks."""
    steps = recording.steps
    if not steps:
        return None
    starts, end = column(steps, "start_seconds"), end_seconds(steps)
    running, decode = column(steps, "num_running"), column(steps, "decode_tokens")
    figure, (batch, tokens, queue) = new_figure(5.2, 3, 1, sharex=True, height_ratios=[1.3, 1, 0.8])
    draw_steps(batch, starts, running, end, colour=BLUE, filled=True, label="running sequences", gid="running")
    limit = metadata_int(recording, "max_num_seqs")
    if limit and limit <= 3 * running.max():
        batch.axhline(limit, color=INK, linewidth=0.8, linestyle="--", label=f"max_num_seqs {limit:,}")
    _mark_preemptions(batch, starts, column(steps, "num_preemptions"))
    computed = column(steps, "prefill_tokens") + decode
    draw_steps(tokens, starts, computed, end, colour=ORANGE, filled=True, label="prefill and decode", gid="tokens")
    draw_steps(tokens, starts, decode, end, colour=BLUE, label="decode", gid="decode")
    waiting = column(steps, "num_waiting")
    draw_steps(queue, starts, waiting, end, colour=PURPLE, filled=True, label="waiting requests", gid="waiting")
    for axes, name in ((batch, "Sequences"), (tokens, "Tokens in a step"), (queue, "Requests")):
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        count_axis(axes.yaxis)
        outside_legend(axes)
    time_axis(queue, end)
    figure.align_ylabels()
    mean = total(recording, "num_running") / max(1, num_steps(recording))
    return Chart(
        "batch-over-time",
        "Batch over time",
        f"Sequences computed together, tokens computed in a step, and requests that wait in the engine. {LONG_RUN}",
        f"Running sequences {mean:.1f} on average and {running.max():,.0f} at most; "
        f"{total(recording, 'num_preemptions'):,.0f} preemptions.",
        figure,
        ("time", "step", "running", "waiting", "prefill tokens", "decode tokens", "preemptions"),
        [_batch_row(steps[at]) for at in _moments(len(steps))],
    )


def _mark_preemptions(axes: Axes, starts: Series, num_preemptions: Series) -> None:
    """A tick at the axis for each step that preempted, or for the first of each group of many."""
    preempted = np.flatnonzero(num_preemptions)
    if len(preempted):
        shown = starts[preempted[bucket_edges(len(preempted))[:-1]]]
        marks: dict[str, Any] = {
            "marker": "|",
            "markersize": 11,
            "markeredgewidth": 1.2,
            "linestyle": "none",
            "color": VERMILION,
        }
        axes.plot(shown, np.zeros(len(shown)), label="preemption", gid="preemptions", clip_on=False, **marks)


def _batch_row(step: StepRecord) -> tuple[str, ...]:
    counts = (step.step, step.num_running, step.num_waiting, step.prefill_tokens, step.decode_tokens, step.num_preemptions)
    return seconds_text(step.start_seconds), *(f"{count:,}" for count in counts)


def step_time(recording: Recording) -> Chart | None:
    """The phases of a step's time, stacked."""
    steps = recording.steps
    if not steps:
        return None
    starts, end = column(steps, "start_seconds"), end_seconds(steps)
    figure, (axes,) = new_figure(3.2)
    below = whole = np.zeros(1)
    for name, field, colour in PHASES:
        seconds = column(steps, field)
        points = bucketed(starts, 1000 * seconds)
        above = below + np.append(points.mean, points.mean[-1])
        if seconds.any():
            area: dict[str, Any] = {"step": "post", "color": colour, "linewidth": 0, "gid": f"phase-{name.split()[0]}"}
            axes.fill_between(np.append(points.x, end), below + np.zeros(len(above)), above, label=name, **area)
        below, whole = above, whole + seconds
    axes.set_ylabel("Milliseconds a step")
    highest = float(below.max())
    top = min(1.05 * highest, 3 * float(np.percentile(below, 98))) or 1.0  # one slow step must not flatten the rest
    axes.set_ylim(0, top)
    if highest > top:
        shown = f"cut off at the top: up to {seconds_text(highest / 1000)}"
        axes.text(0.99, 0.97, shown, transform=axes.transAxes, ha="right", va="top", fontsize="small", color=INK)
    number_axis(axes.yaxis)
    time_axis(axes, end)
    outside_legend(axes, reverse=True)
    totals = [(name, total(recording, field)) for name, field, _ in PHASES]
    count, everything = num_steps(recording), sum(seconds for _, seconds in totals) or 1.0
    rows = [
        (name, seconds_text(seconds), f"{100 * seconds / everything:.1f} %", seconds_text(seconds / count))
        for name, seconds in [*totals, ("together", everything)]
    ]
    slow = ", ".join(f"p{percent} {seconds_text(float(np.percentile(whole, percent)))}" for percent in (50, 95, 99))
    return Chart(
        "step-time",
        "Step time by phase",
        f"Stacked; outside the step: reading and writing rows. A long run is drawn in means of neighbouring steps. A step: "
        f"{slow}, at most {seconds_text(float(whole.max()))}.",
        f"{count:,} steps of {rows[-1][3]} on average: "
        + ", ".join(f"{name} {share}" for name, _, share, _ in rows[:-1])
        + ".",
        figure,
        ("phase", "total", "share", "mean of a step"),
        rows,
    )


def latency_percentiles(requests: Sequence[RequestRecord]) -> Chart | None:
    """Cumulative share of requests by latency, for the three latencies."""
    kinds = latencies(requests)
    if not kinds:
        return None
    figure, panels = new_figure(3.1, 1, len(kinds), sharey=True)
    for kind, axes, colour in zip(kinds, panels, (BLUE, GREEN, ORANGE), strict=False):
        _draw_distribution(axes, kind, colour)
    panels[0].set_ylabel("Percent of requests")
    rows = []
    for kind in kinds:
        seconds = (kind.mean, *map(kind.percentile, PERCENTILES), kind.seconds[-1])
        rows.append((kind.name, f"{len(kind.seconds):,}", *map(seconds_text, seconds)))
    return Chart(
        "latency",
        "Latency of requests",
        "The share of requests served within a time; dots: 50, 95 and 99 %. Times run from when a request entered the engine,"
        " so waiting counts.",
        "Medians: " + ", ".join(f"{kind.name} {seconds_text(kind.percentile(50))}" for kind in kinds) + ".",
        figure,
        ("latency", "requests", "mean", *(f"p{percent}" for percent in PERCENTILES), "max"),
        rows,
    )


def _draw_distribution(axes: Axes, kind: LatencyKind, colour: str) -> None:
    scale, unit = (1000, "ms") if kind.seconds[-1] < 1 else (1, "s")
    ranks = np.linspace(0, 100, min(201, 2 * len(kind.seconds) + 1))
    axes.plot([kind.percentile(rank) * scale for rank in ranks], ranks, color=colour, gid=kind.name.replace(" ", "-"))
    marked = {percent: kind.percentile(percent) for percent in (50, 95, 99)}
    axes.plot([at * scale for at in marked.values()], list(marked), color=colour, marker="o", markersize=4.5, linestyle="none")
    axes.set_title(" · ".join(f"p{percent} {seconds_text(at)}" for percent, at in marked.items()), fontsize=9)
    axes.set(xlabel=f"{kind.name[0].upper()}{kind.name[1:]} ({unit})", ylim=(0, 102))
    axes.set_xlim(left=0)
    number_axis(axes.xaxis)
