"""Measured results as tables and as JSON, and the speed-ups published elsewhere."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pagecli.cli.profile.tables import Column, FittingTable, LinesOrTable
from pagecli.profiler.measure.measure import PAPER_SLOTS_PER_LONGEST, Measurement, MeasureSettings
from pagecli.profiler.measure.sweep import SweepResult, table
from pagecli.profiler.plan.plan_json import policy_json
from pagecli.profiler.recording.records import PolicyResult
from pagecli.profiler.recording.run_summary import summarize
from pagecli.profiler.replay.papers import published_speedup
from pagecli.profiler.workloads.workloads import Workload

if TYPE_CHECKING:
    from rich.console import RenderableType


def ratio(results: list[PolicyResult], other: PolicyResult) -> float | None:
    """Measured tokens/s of the first result, the paged one, over another's."""
    speed = other.output_tokens_per_second
    return results[0].output_tokens_per_second / speed if speed else None


def run_json(done: Measurement, workload: Workload, settings: MeasureSettings) -> dict[str, Any]:
    """`policies`: rows as those of `replay`; `ratios`: paged tokens/s over theirs, and the published speed-ups."""
    metadata = done.recordings[0].metadata
    ratios = []
    for result in done.results[1:]:
        published = published_speedup(result)
        ratios.append(
            {
                "policy": result.policy,
                "batching": result.batching,
                "paged_is_times": ratio(done.results, result),
                "claim": None if published is None else asdict(published),
            }
        )
    return {
        "model": settings.engine.model,
        "machine": metadata["machine"],
        "num_threads": metadata["num_threads"],
        "dtype": metadata["dtype"],
        "kv_memory_bytes": done.kv_memory_bytes,
        "max_model_len": metadata["max_model_len"],
        "max_seconds": settings.max_seconds,
        "workload": {"name": workload.name, "num_requests": len(workload.requests), "note": workload.note},
        "policies": [policy_json(result) for result in done.results],
        "ratios": ratios,
        "summaries": [summarize(recording) for recording in done.recordings],
    }


def run_tables(done: Measurement, workload: Workload, settings: MeasureSettings) -> "list[RenderableType]":
    """Heading, the policies side by side, what the ratios mean."""
    from rich.text import Text

    metadata = done.recordings[0].metadata
    heading = Text.assemble(
        ("Measured", "bold"),
        f": {settings.engine.model}, {metadata['dtype']}, {metadata['num_threads']} threads of {metadata['machine']}; "
        f"{workload.name}, {len(workload.requests):,} requests",
    )
    shown: list[RenderableType] = [heading, Text(_memory_line(done, settings), "dim"), Text(""), _policy_table(done)]
    if any(result.details["cut_off"] for result in done.results):
        seconds = f"{settings.max_seconds:g} s"
        shown.append(
            Text(f"Cut off after {seconds}: measured by the tokens made until then (--max-seconds 0: to the end).", "dim")
        )
    if refused := max(result.details["num_refused"] for result in done.results):
        shown.append(Text(f"{refused:,.0f} requests were refused: longer than the model or the KV memory allows.", "yellow"))
    if published := _published_line(done):
        shown.append(Text(published, "dim"))
    shown += [Text(""), _step_line(done), *_hardware_lines(done)]
    return shown


def _memory_line(done: Measurement, settings: MeasureSettings) -> str:
    slots = done.results[0].details["kv_slots"]
    line = f"Each policy has {done.kv_memory_bytes / 2**20:,.0f} MiB of KV memory, {slots:,.0f} slots"
    if settings.engine.kv_memory_bytes is None:
        line += f": {PAPER_SLOTS_PER_LONGEST:.1f} times the longest request, as the paper's A100 beside OPT-13B (--kv-memory)"
    return line + "."


def _policy_table(done: Measurement) -> FittingTable:
    names = ("batching", "tokens/s", "paged is", "mean\nbatch", "token\nstates", "finished", "seconds")
    columns = [Column("policy", "name"), *map(Column, names)]
    rows = []
    for result in done.results:
        times = ratio(done.results, result)
        of = f"{result.details['num_finished']:,.0f} of {result.num_requests:,}"
        rows.append(
            (
                result.policy,
                result.batching,
                f"{result.output_tokens_per_second:,.1f}",
                f"{times:.2f}x" if times is not None and result is not done.results[0] else "",
                f"{result.mean_batch:.2f}",
                f"{result.shares.token_states:.1f} %",
                of.replace(" ", "\u00a0"),
                f"{result.seconds:.1f}",
            )
        )
    return FittingTable(columns, rows)


def _published_line(done: Measurement) -> str:
    """One line of the speed-ups of paging published for other machines, beside which the ratios stand."""
    lines = [f"{r.policy}, {r.batching}: {published.text}" for r in done.results if (published := published_speedup(r))]
    return f"Published for paging, on other machines and models: {'; '.join(lines)}." if lines else ""


def _step_line(done: Measurement) -> "RenderableType":
    from rich.text import Text

    phases = {name: value for name, value in summarize(done.recordings[0])["seconds_by_phase"].items() if value > 0}
    whole = sum(phases.values()) or 1.0
    parts = ", ".join(f"{name} {value / whole:.1%}" for name, value in phases.items())
    return Text(f"Time of the paged run: {parts}.")


def _hardware_lines(done: Measurement) -> "list[RenderableType]":
    """One line a device of the paged run, and what could not be read."""
    from rich.text import Text

    summary = summarize(done.recordings[0])
    lines: list[RenderableType] = []
    for device, metrics in summary["hardware"].items():
        parts = []
        if (memory := metrics["process_memory_bytes_peak"] or metrics["memory_used_bytes_peak"]) is not None:
            parts.append(f"at most {memory / 2**20:,.0f} MiB")
        if metrics["utilization_percent_mean"] is not None:
            parts.append(f"{metrics['utilization_percent_mean']:.0f} % utilized")
        if metrics["cpu_seconds"] is not None:
            parts.append(f"{metrics['cpu_seconds']:,.1f} s of CPU time")
        if metrics["power_watts_mean"] is not None:
            parts.append(f"{metrics['power_watts_mean']:,.0f} W")
        if metrics["throttle_reasons"]:
            parts.append(f"throttled {metrics['throttled_share']:.0%} of the time ({', '.join(metrics['throttle_reasons'])})")
        lines.append(Text(f"{device}: {', '.join(parts)}."))
    if summary["joules_per_output_token"] is not None:
        lines.append(Text(f"Energy: {summary['joules_per_output_token']:.3g} J an output token."))
    if summary["hardware_note"]:
        lines.append(Text(f"({summary['hardware_note']})", "dim"))
    return lines


def sweep_json(result: SweepResult) -> dict[str, Any]:
    """A line of the table; times in seconds."""
    rates = ("num_kv", "seconds", "prompt_tokens_per_second", "output_tokens_per_second", "tokens_per_second")
    flat = asdict(result)
    return {**flat.pop("point"), **flat, **{name: getattr(result, name) for name in rates}}


def sweep_tables(results: list[SweepResult]) -> "list[RenderableType]":
    """llama-batched-bench's table; its rows as a list where that is too wide."""
    names = ("PP", "TG", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s")
    rows = []
    for r in results:
        counts = (f"B {r.point.batch}", str(r.point.prompt), str(r.point.output), str(r.num_kv))
        prompt = (f"{r.prompt_seconds:.3f}", f"{r.prompt_tokens_per_second:.2f}")
        output = (f"{r.output_seconds:.3f}", f"{r.output_tokens_per_second:.2f}")
        rows.append((*counts, *prompt, *output, f"{r.seconds:.3f}", f"{r.tokens_per_second:.2f}"))
    return [LinesOrTable(list(table(results)), FittingTable([Column("batch", "name"), *map(Column, names)], rows))]
