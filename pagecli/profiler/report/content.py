"""The content of a report, independent of its format: sections of key metrics, charts and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pagecli.profiler.plan.plan import Plan
from pagecli.profiler.recording.records import PolicyResult, Recording
from pagecli.profiler.recording.run_summary import hardware_summary, joules_per_token
from pagecli.profiler.recording.run_totals import block_size_of, end_seconds, num_requests, num_steps, total
from pagecli.profiler.replay.papers import is_papers_setting, published_speedup
from pagecli.profiler.report import block_charts, hardware_charts, memory_charts, run_charts, sweep_chart
from pagecli.profiler.report.advice import advice
from pagecli.profiler.report.chart_style import Chart, bytes_text, seconds_text, style

if TYPE_CHECKING:
    from pagecli.profiler.measure.sweep import SweepResult


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text cells under a heading, shown beside the charts."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report: key metrics, charts and tables on one subject."""

    name: str  # anchor in the page
    title: str
    metrics: Sequence[tuple[str, str]]  # (name, value): the key metrics
    charts: Sequence[Chart]
    tables: Sequence[Table] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    title: str
    metadata: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    advice: str | None
    charts: Sequence[Chart] = field(default=())  # of all sections, in order


def build_report(
    plan: Plan | None,
    results: Sequence[PolicyResult] | None,
    recording: Recording | None,
    workload: str | None = None,
    sweep: "Sequence[SweepResult]" = (),
) -> Report:
    """A report of those parts that are given. `workload`: one that the paper has results for (sharegpt, alpaca), or another."""
    papers = plan is not None and in_papers_setting(plan)
    with style():
        sections = [
            section
            for section in (
                _plan_section(plan) if plan else None,
                *(_policy_section(kind, workload if papers else None) for kind in _kinds(results or []) if kind),
                run_section(recording) if recording and (recording.steps or recording.requests) else None,
                _hardware_section(recording) if recording else None,
                _sweep_section(sweep) if sweep else None,
            )
            if section is not None
        ]
    title = recording.title if recording else plan.settings.model if plan else "memory policies"
    charts = [chart for section in sections for chart in section.charts]
    metadata = [("workload", workload)] if workload else []
    return Report(title, metadata + metadata_of(recording), sections, advice(results, recording), charts)


def in_papers_setting(plan: Plan) -> bool:
    """Whether the paper's results are of the plan's model and GPU."""
    settings = plan.settings
    return is_papers_setting(settings.model, settings.device.name, settings.num_devices)


def _kinds(results: Sequence[PolicyResult]) -> tuple[list[PolicyResult], list[PolicyResult]]:
    """(replayed, measured)"""
    return [r for r in results if not r.measured], [r for r in results if r.measured]


def metadata_of(recording: Recording | None) -> list[tuple[str, str]]:
    """(name, value) of the recording's metadata; an entry that is itself a mapping as `name key`."""
    metadata: list[tuple[str, str]] = []
    for name, value in (recording.metadata if recording else {}).items():
        if name == "ranks":
            continue
        if isinstance(value, Mapping):
            metadata += [(f"{name} {key}", _metadata_text(part)) for key, part in value.items()]
        else:
            metadata.append((name.replace("_", " "), _metadata_text(value)))
    return metadata


def _metadata_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _there(*charts: Chart | None) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _plan_section(plan: Plan) -> Section:
    settings = plan.settings
    devices = settings.device.title if settings.num_devices == 1 else f"{settings.num_devices} x {settings.device.title}"
    metrics = [
        ("weights", bytes_text(plan.weights_bytes)),
        ("KV of a token", f"{settings.kv_bytes_per_token:,} bytes"),
        ("KV memory", bytes_text(plan.kv_memory_bytes)),
        ("KV slots", f"{plan.kv_slots:,}"),
        ("blocks", f"{plan.kv_blocks:,} of {settings.block_size} slots"),
        ("largest batch", f"{plan.largest_batch:,} sequences") if plan.fits else ("fits", "no"),
    ]
    rows = [(c.name, f"{c.tokens:,.0f}", f"{c.blocks:,}", f"{c.num_requests:,}") for c in plan.concurrency]
    fitting = Table("How many requests fit at a time", ("length", "tokens", "blocks of each", "requests at a time"), rows)
    layout = memory_charts.memory_layout(plan.parts, plan.memory_bytes, devices)
    return Section("plan", f"Plan: {settings.model} on {devices}", metrics, _there(layout), [fitting] if plan.fits else [])


def _policy_section(results: Sequence[PolicyResult], workload: str | None) -> Section:
    """Results of one kind, replayed or measured, for their speeds are of different machines.

    `workload`: the one whose published results are shown beside replayed ones; None: they are left out.
    """
    measured, usual = results[0].measured, _usual_block_size(results)
    distinct = {
        (r.policy, r.batching, r.prefix_caching): r for r in reversed(results) if r.policy != "paged" or r.block_size == usual
    }
    compared = [result for result in results if any(result is kept for kept in distinct.values())]
    charts = _there(
        memory_charts.waste(compared, beside_paper=workload is not None and not measured),
        memory_charts.policies(compared, None if measured else workload),
        memory_charts.block_sizes(results),
    )
    kind, word = ("measured-policies", "Measured") if measured else ("replay", "Replayed")
    charts = [replace(chart, name=f"{kind}-{chart.name}") for chart in charts]
    ratios = _ratios(compared) if measured else []
    speedups = Table(
        "Speed-up of paging over other policies, measured and published", ("policy", "measured", "published"), ratios
    )
    return Section(kind, f"{word}: the same work under other memory policies", [], charts, [speedups] if ratios else [])


def _ratios(results: Sequence[PolicyResult]) -> list[tuple[str, ...]]:
    """Output tokens/s of paged memory over each other policy's, and the published ones."""
    paged = next((r for r in results if r.policy == "paged" and r.batching == "continuous"), None)
    rows: list[tuple[str, ...]] = []
    for other in results:
        published = published_speedup(other)
        if paged and published and other.output_tokens_per_second > 0:
            ratio = paged.output_tokens_per_second / other.output_tokens_per_second
            rows.append((memory_charts.label_of(other, results), f"{ratio:.2f}x", published.text))
    return rows


def _usual_block_size(results: Sequence[PolicyResult]) -> int:
    """16 if it is among the paged results, else the first one's: other sizes have a chart of their own."""
    sizes = [result.block_size for result in results if result.policy == "paged"]
    return 16 if 16 in sizes or not sizes else sizes[0]


def run_section(recording: Recording) -> Section:
    """What happened in a run."""
    return Section(
        "run",
        "Measured: what happened in the run",
        run_metrics(recording),
        _there(
            run_charts.kv_over_time(recording),
            run_charts.batch_over_time(recording),
            block_charts.block_maps(recording.block_maps),
            run_charts.step_time(recording),
            run_charts.latency_percentiles(recording.requests),
        ),
        tables=_ranks_table(recording),
        note=_kept_note(recording),
    )


def _ranks_table(recording: Recording) -> list[Table]:
    """Where each rank ran, what it held and how long it waited for others; none of a model in one process."""
    ranks = recording.metadata.get("ranks")
    if not isinstance(ranks, list):
        return []
    columns = ("rank", "instruction set", "CPUs", "threads", "weights", "waited for others", "restarts")
    rows = [
        (
            str(rank["rank"]),
            str(rank["cpu_isa"]),
            str(len(rank["cpus"])),
            str(rank["num_threads"]),
            bytes_text(rank["weight_bytes"]),
            seconds_text(rank["waited_seconds"]) if "waited_seconds" in rank else "not measured",
            str(rank["num_restarts"]),
        )
        for rank in ranks
    ]
    return [Table("Ranks that share the model", columns, rows)]


def _kept_note(recording: Recording) -> str:
    """Says so where a long run was not kept whole."""
    if recording.step_stride <= 1:
        return ""
    return (
        f"Of {num_steps(recording):,} steps every {recording.step_stride}th is drawn; of {num_requests(recording):,} requests "
        f"{len(recording.requests):,} are, chosen at random. Sums count all."
    )


def run_metrics(recording: Recording) -> list[tuple[str, str]]:
    """(name, value): the key metrics of a run."""
    seconds, count = end_seconds(recording.steps), num_steps(recording)
    output = recording.totals.get("output_tokens", sum(request.output_tokens for request in recording.requests))
    metrics = [("requests", f"{num_requests(recording):,}"), ("output tokens", f"{output:,.0f}")]
    if not count:
        return metrics
    metrics += [
        ("output tokens/s", f"{output / seconds:,.1f}" if seconds else "not measured"),
        ("time", seconds_text(seconds)),
        ("steps", f"{count:,}"),
        ("mean batch", f"{total(recording, 'num_running') / count:.1f} sequences"),
        ("preemptions", f"{total(recording, 'num_preemptions'):,.0f}"),
    ]
    block_size, used = block_size_of(recording), total(recording, "blocks_used")
    if block_size and used:
        metrics.append(("slots filled", f"{100 * total(recording, 'slots_filled') / (used * block_size):.1f} % of used blocks"))
    if unshared := total(recording, "blocks_unshared"):
        metrics.append(("saved by sharing", f"{100 * (1 - used / unshared):.1f} % of blocks"))
    joules = joules_per_token(hardware_summary(recording.hardware), int(output))
    if joules is not None:
        metrics.append(("energy", f"{joules:.3g} J a token"))
    return metrics


def _hardware_section(recording: Recording) -> Section | None:
    chart = hardware_charts.hardware(recording.hardware)
    if chart is None and not recording.hardware_note:
        return None
    return Section("hardware", "Hardware", [], _there(chart), note=_sentence(recording.hardware_note))


def _sweep_section(sweep: "Sequence[SweepResult]") -> Section:
    return Section("sweep", "Sweep: speed by batch size", [], _there(sweep_chart.speed_by_batch(sweep)))


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:].rstrip('.')}." if note else ""
