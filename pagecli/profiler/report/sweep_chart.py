"""Chart of a sweep: speed of prompts and of generation by batch size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pagecli.profiler.report.chart_style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Chart,
    new_figure,
    number_axis,
    outside_legend,
)

if TYPE_CHECKING:
    from pagecli.profiler.measure.sweep import SweepResult

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY)


def speed_by_batch(results: "Sequence[SweepResult]") -> Chart | None:
    """Output tokens/s and prompt tokens/s; one line for each pair of prompt and output lengths."""
    if not results:
        return None
    batches = sorted({result.point.batch for result in results})
    shapes = list(dict.fromkeys((result.point.prompt, result.point.output) for result in results))
    figure, (output, prompt) = new_figure(3.0, 1, 2)
    for (num_prompt, num_output), colour in zip(shapes, _COLOURS * len(shapes), strict=False):
        own = [r for r in results if (r.point.prompt, r.point.output) == (num_prompt, num_output)]
        own.sort(key=lambda result: result.point.batch)
        x = [batches.index(result.point.batch) for result in own]
        line = {"color": colour, "marker": "o", "markersize": 4, "label": f"{num_prompt:,} in, {num_output:,} out"}
        output.plot(x, [r.output_tokens_per_second for r in own], gid=f"output-{num_prompt}-{num_output}", **line)  # type: ignore[arg-type]
        prompt.plot(x, [r.prompt_tokens_per_second for r in own], gid=f"prompt-{num_prompt}-{num_output}", **line)  # type: ignore[arg-type]
    for axes, name in ((output, "Output tokens/s"), (prompt, "Prompt tokens/s")):
        axes.set_xticks(range(len(batches)), [f"{batch:,}" for batch in batches])
        axes.set(xlabel="Batch (sequences)", ylabel=name)
        axes.set_ylim(bottom=0)
        number_axis(axes.yaxis)
    outside_legend(prompt)
    best = max(results, key=lambda result: result.output_tokens_per_second)
    return Chart(
        "sweep",
        "Speed by batch size",
        "Equal requests computed together; generation beside prompts, as llama-batched-bench counts them.",
        f"Most output tokens/s: {best.output_tokens_per_second:,.1f} at a batch of {best.point.batch}.",
        figure,
        ("prompt", "output", "batch", "prompt seconds", "prompt tokens/s", "output seconds", "output tokens/s"),
        [_row(result) for result in results],
    )


def _row(result: "SweepResult") -> tuple[str, ...]:
    counts = (result.point.prompt, result.point.output, result.point.batch)
    times = ((result.prompt_seconds, result.prompt_tokens_per_second), (result.output_seconds, result.output_tokens_per_second))
    return *(f"{count:,}" for count in counts), *(cell for s, speed in times for cell in (f"{s:.3f}", f"{speed:,.1f}"))
