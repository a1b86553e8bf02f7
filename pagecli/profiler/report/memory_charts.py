"""Charts of memory: a device's bytes by part, each policy's KV slots by state, and the cost of block sizes and policies."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from pagecli.profiler.recording.records import MemoryPart, PolicyResult
from pagecli.profiler.replay.papers import PaperSystem, system_for
from pagecli.profiler.report.chart_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Chart,
    bytes_text,
    count_axis,
    new_figure,
    number_axis,
    number_text,
    outside_legend,
    seconds_text,
    stacked_bar,
)

SHARES = (
    ("token states", BLUE),
    ("reservation", SKY),
    ("internal fragmentation", ORANGE),
    ("external fragmentation", PURPLE),
    ("free", GREY),
)
_PART_COLOURS = {
    "weights": BLUE,
    "kv": GREEN,
    "activations": ORANGE,
    "logits": VERMILION,
    "runtime": PURPLE,
    "unused": GREY,
}
_SPARE_COLOURS = (SKY, PURPLE, VERMILION, ORANGE)
_MODELLED = "Modelled: the steps of the replay, each as long as its bandwidth and arithmetic take."
_PAPERS_BATCH = " The paper's mean batch (figure 13) is of OPT-13B on one A100-40GB, ShareGPT at 2 requests/s and Alpaca at 30."
_LABEL_FITS = 4.5  # percent of the bar's length


def memory_layout(parts: Sequence[MemoryPart], memory_bytes: int, devices: str) -> Chart | None:
    """The devices' memory by part (the paper's figure 1, left), in the order given; an excess passes 100 %."""
    if not parts or memory_bytes <= 0:
        return None
    figure, (axes,) = new_figure(1.5 + 0.12 * len(parts))
    percent = [100 * part.num_bytes / memory_bytes for part in parts]
    end = max(100.0, sum(percent))
    colours = _part_colours(parts)
    labels = [f"{share:.0f} %" if share > _LABEL_FITS * end / 100 else "" for share in percent]
    stacked_bar(axes, 0, list(zip(percent, colours, strict=True)), "part", labels, height=0.7)
    for part, colour in zip(parts, colours, strict=True):
        axes.barh(0, 0, color=colour, label=f"{part.name}, {bytes_text(part.num_bytes)}")
    too_much = sum(part.num_bytes for part in parts) - memory_bytes
    if too_much > 0:
        axes.axvline(100, color=VERMILION, linewidth=1.6, label=f"end of memory, {bytes_text(too_much)} missing")
    axes.set(xlim=(0, end * 1.002), ylim=(-0.5, 0.5), yticks=[], xlabel=f"Percent of {bytes_text(memory_bytes)} ({devices})")
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    outside_legend(axes, fontsize=8.5)
    rows = [(p.name, bytes_text(p.num_bytes), f"{share:.1f} %", p.note) for p, share in zip(parts, percent, strict=True)]
    missing = f" {bytes_text(too_much)} are missing." if too_much > 0 else ""
    return Chart(
        "memory-layout",
        "Where the memory goes",
        f"All memory of {devices}, divided as the engine would divide it (the paper's figure 1).{missing}",
        f"Of {bytes_text(memory_bytes)}: "
        + ", ".join(f"{name} {size} ({share})" for name, size, share, _ in rows)
        + f".{missing}",
        figure,
        ("part", "size", "share", "from"),
        rows,
        {f"part-{i}": f"{name}: {size}, {share}" for i, (name, size, share, _) in enumerate(rows)},
    )


def _part_colours(parts: Sequence[MemoryPart]) -> list[str]:
    """A colour by what the part is named, others in turn."""
    spare, chosen = iter(_SPARE_COLOURS * len(parts)), []
    for part in parts:
        known = (colour for word, colour in _PART_COLOURS.items() if word in part.name.lower())
        chosen.append(next((colour for colour in known if colour not in chosen), None) or next(spare))
    return chosen


def label_of(result: PolicyResult, results: Sequence[PolicyResult]) -> str:
    """policy, batching and every other setting that distinguishes this result from the others."""
    words = [result.policy, result.batching]
    paged = [other for other in results if other.policy == result.policy == "paged"]
    if len({other.block_size for other in paged}) > 1:
        words.append(f"block {result.block_size}")
    if len({other.prefix_caching for other in paged}) > 1:
        words.append("sharing" if result.prefix_caching else "no sharing")
    if len({other.measured for other in results}) > 1:
        words.append("measured" if result.measured else "modelled")
    return " · ".join(words)


def _shares(result: PolicyResult) -> tuple[float, ...]:
    shares = result.shares
    held = shares.token_states, shares.reservation, shares.internal_fragmentation
    return *held, shares.external_fragmentation, shares.free


def waste(results: Sequence[PolicyResult], beside_paper: bool = True) -> Chart | None:
    """Each policy's KV slots by state; `beside_paper`: the paper's systems below ours (its figure 2)."""
    if not results:
        return None
    lines: list[tuple[str, tuple[float | None, ...], bool]] = []
    for result in results:
        lines.append((label_of(result, results), _shares(result), False))
        paper = system_for(result.policy, result.batching) if beside_paper else None
        if paper and not any(label == _paper_label(paper) for label, _, _ in lines):
            lines.append((_paper_label(paper), _paper_shares(paper), True))
    figure, (axes,) = new_figure(1.1 + 0.36 * len(lines))
    tooltips = {}
    for row, (label, shares, from_paper) in enumerate(lines):
        parts = [(share or 0.0, colour) for share, (_, colour) in zip(shares, SHARES, strict=True)]
        texts = [f"{share:.1f}" if share and share > _LABEL_FITS else "" for share in shares]
        style: dict[str, float] = {"height": 0.5, "alpha": 0.6} if from_paper else {"height": 0.78}
        stacked_bar(axes, row, parts, f"share-{row}", texts, **style)
        for index, share in enumerate(shares):
            tooltips[f"share-{row}-{index}"] = f"{label}: {SHARES[index][0]} {share or 0:.1f} %"
    _name_rows(axes, [label for label, _, _ in lines], [from_paper for _, _, from_paper in lines])
    for name, colour in SHARES:
        axes.barh(0, 0, color=colour, label=name)
    axes.set(xlim=(0, 100), xlabel="Percent of KV memory")
    figure.legend(loc="outside lower left", ncols=5)
    best = max(results, key=lambda result: result.shares.token_states)
    paper_bars = (
        " Thin bars: the paper's systems on its own workload (figure 2), external fragmentation and others in one; what it does"
        " not divide is left blank."
    )
    return Chart(
        "kv-waste",
        "Where each policy's KV slots went",
        f"Averaged over the steady part of the workload.{paper_bars if beside_paper else ''}",
        f"Most token states: {label_of(best, results)} with {best.shares.token_states:.1f} % of KV memory, the least "
        f"{min(result.shares.token_states for result in results):.1f} %.",
        figure,
        ("policy", *(f"{name} %" for name, _ in SHARES)),
        [(label, *("not given" if share is None else f"{share:.1f}" for share in shares)) for label, shares, _ in lines],
        tooltips,
    )


def _paper_label(paper: PaperSystem) -> str:
    return f"paper: {paper.name}"


def _paper_shares(paper: PaperSystem) -> tuple[float | None, ...]:
    return paper.token_states, paper.reservation, paper.internal_fragmentation, paper.external_fragmentation, None


def _name_rows(axes: Axes, labels: Sequence[str], muted: Sequence[bool]) -> None:
    """Bars' names at their left, the first bar on top."""
    axes.set_yticks(range(len(labels)), labels)
    for name, quiet in zip(axes.get_yticklabels(), muted, strict=True):
        name.set(color=MUTED if quiet else INK, style="italic" if quiet else "normal")
    axes.set_ylim(len(labels) - 0.4, -0.6)
    for each in axes.get_shared_y_axes().get_siblings(axes):
        each.tick_params(axis="y", length=0)
        each.grid(False, axis="y")
        each.spines["left"].set_visible(False)


def policies(results: Sequence[PolicyResult], workload: str | None = None) -> Chart | None:
    """Mean batch and output tokens/s of each policy; the paper's mean batch (figure 13) as a mark where it has the workload."""
    if not results:
        return None
    figure, (batch, speed) = new_figure(1.0 + 0.34 * len(results), 1, 2, sharey=True)
    tooltips = {}
    labels = [label_of(result, results) for result in results]
    for row, result in enumerate(results):
        papers = _paper_batch(result, workload)
        _draw_value(batch, row, result.mean_batch, f"batch-{row}", result.measured, papers)
        _draw_value(speed, row, result.output_tokens_per_second, f"speed-{row}", result.measured)
        tooltips[f"batch-{row}"] = f"{labels[row]}: {number_text(result.mean_batch)} sequences in a step"
        tooltips[f"speed-{row}"] = f"{labels[row]}: {number_text(result.output_tokens_per_second)} output tokens/s"
    marks, names = batch.get_legend_handles_labels()
    if marks:
        figure.legend(marks[:1], names[:1], loc="outside lower left")
    _name_rows(batch, labels, [False] * len(labels))
    kinds = {"measured" if result.measured else "modelled" for result in results}
    batch.set_xlabel("Mean batch (sequences in a step)")
    speed.set_xlabel(f"Output tokens/s ({' or '.join(sorted(kinds))})")
    best = max(results, key=lambda result: result.output_tokens_per_second)
    how = "Run on this machine." if kinds == {"measured"} else _MODELLED
    return Chart(
        "policies",
        "Batch and speed by policy",
        f"At equal memory. {how}{_PAPERS_BATCH if marks else ''}",
        f"Fastest: {label_of(best, results)} with {number_text(best.output_tokens_per_second)} output tokens/s at a mean batch"
        f" of {best.mean_batch:.1f}.",
        figure,
        ("policy", "mean batch", "output tokens/s", "requests finished", "steps", "preemptions", "time"),
        [_policy_row(label, result) for label, result in zip(labels, results, strict=True)],
        tooltips,
    )


def _draw_value(axes: Axes, row: int, value: float, gid: str, measured: bool, papers: float | None = None) -> None:
    """A bar with its number behind it, and the paper's number as a mark."""
    axes.barh(row, value, color=BLUE if measured else SKY, height=0.65)[0].set_gid(gid)
    if papers is not None:
        axes.plot(papers, row, marker="D", color=VERMILION, markersize=5, linestyle="none", label="paper")
    beside = papers is not None and value <= papers < 1.2 * value  # the mark would lie on the number
    axes.annotate(
        number_text(value),
        (papers if beside and papers else value, row),
        (6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )
    axes.margins(x=0.18)
    number_axis(axes.xaxis)


def _paper_batch(result: PolicyResult, workload: str | None) -> float | None:
    paper = system_for(result.policy, result.batching)
    return paper.mean_batch.get(workload or "") if paper else None


def _policy_row(label: str, result: PolicyResult) -> tuple[str, ...]:
    finished = int(result.details.get("num_finished", result.num_requests))
    requests = f"{result.num_requests:,}" if finished == result.num_requests else f"{finished:,} of {result.num_requests:,}"
    speed, counts = f"{result.output_tokens_per_second:,.1f}", (result.num_steps, result.num_preemptions)
    return label, f"{result.mean_batch:.2f}", speed, requests, *(f"{count:,}" for count in counts), seconds_text(result.seconds)


def block_sizes(results: Sequence[PolicyResult]) -> Chart | None:
    """Waste of paged memory by its block size; None unless there are two sizes of otherwise equal results."""
    paged = [result for result in results if result.policy == "paged" and result.batching == "continuous"]
    alike = [{r.block_size: r for r in paged if r.prefix_caching == sharing} for sharing in (False, True)]
    chosen = max(alike, key=len)
    if len(chosen) < 2:
        return None
    sizes = sorted(chosen)
    figure, (axes,) = new_figure(2.7)
    held = [_held_share(chosen[size]) for size in sizes]
    axes.plot(range(len(sizes)), held, color=BLUE, marker="o", markersize=4, gid="held")
    for at, share in enumerate(held):
        axes.annotate(f"{share:.1f}", (at, share), (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.set(xlabel="Block size (tokens)", ylabel="Filled, % of held slots", ylim=(min(100 * int(min(held) / 100), 0), 112))
    count_axis(axes.yaxis)
    rows = [(f"{size:,}", f"{share:.2f}", f"{chosen[size].mean_batch:.2f}") for size, share in zip(sizes, held, strict=True)]
    return Chart(
        "block-sizes",
        "Filled slots by block size",
        "Of the slots in blocks that sequences hold, those that hold a token. The last block is half empty on average.",
        f"From {held[0]:.1f} % at block size {sizes[0]} to {held[-1]:.1f} % at {sizes[-1]}.",
        figure,
        ("block size", "filled % of held slots", "mean batch"),
        rows,
    )


def _held_share(result: PolicyResult) -> float:
    """Percent of the slots that requests hold which are filled; 100 if they hold none."""
    shares = result.shares
    held = shares.token_states + shares.reservation + shares.internal_fragmentation
    return 100 * shares.token_states / held if held > 0 else 100.0
