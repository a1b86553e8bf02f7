"""The plan for a terminal: tables and lines of 80 columns or more."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from pagecli.cli.profile.tables import Column, FittingTable
from pagecli.core.dtypes import CPU_DTYPES, GPU_DTYPES
from pagecli.model.build_program import build
from pagecli.profiler.plan.estimate import Estimate, kv_dtypes_of
from pagecli.profiler.plan.plan import Plan, num_too_long
from pagecli.profiler.plan.processes import ProcessPlan
from pagecli.profiler.recording.records import MemoryPart
from pagecli.profiler.workloads.workloads import LengthStats, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.text import Text

BAR_WIDTH = 20
# One color for each part of memory, the same in every table.
COLORS = {"weights": "blue", "LoRA adapters": "cyan", "KV cache": "green", "unused": "bright_black"}


def first_page(
    plan: Plan, workload: Workload, estimate: Estimate | None, flags: list[str], note: str
) -> "list[RenderableType]":
    """Whether it fits, how many requests at a time, how fast, the command, and where memory goes: a screen of 24 rows."""
    shown = _answers(plan, workload, estimate, flags, note)
    shown += [_line(""), _memory_table(plan, _joined_parts(plan)), *_too_long(plan, workload)]
    return [*shown, _line("--all: memory by part, lengths, blocks, replay. --compare: other policies.", "dim")]


def whole_plan(
    plan: Plan, workload: Workload, estimate: Estimate | None, flags: list[str], note: str
) -> "list[RenderableType]":
    """The answers of the first page, then how they come about."""
    shown = _answers(plan, workload, estimate, flags, note)
    shown += [_line(""), _memory_table(plan, plan.parts), _line(""), _lengths_table(plan, workload)]
    shown += [_line(_workload_line(workload), "dim"), *_too_long(plan, workload)]
    if plan.fits and estimate is not None:
        shown += [_line(""), _line(_batch_line(plan, workload)), _line(_estimate_line(plan, estimate))]
    return shown


def _answers(plan: Plan, workload: Workload, estimate: Estimate | None, flags: list[str], note: str) -> "list[RenderableType]":
    shown: list[RenderableType] = [_heading(plan)]
    if note:
        shown.append(_line(note, "dim"))
    if plan.fits and estimate is not None:
        shown += [_line(_answer(plan, workload, estimate), "bold green"), _line("")]
        shown.append(_command(plan.settings.model, flags))
        if limits := _what_generate_cannot(plan):
            shown.append(_line(limits, "dim"))
    else:
        shown += [_line(line, "bold red" if number == 0 else "") for number, line in enumerate(what_is_missing(plan))]
    return shown


def _joined_parts(plan: Plan) -> tuple[MemoryPart, ...]:
    """The plan's parts, those of a step as one, in short words."""
    named = {part.name: part for part in plan.parts if part.name in COLORS}
    if (weights := named.get("weights")) is not None:
        count = build(plan.settings.config).num_parameters
        short = f"{count / 1e9:,.2f} B" if count >= 1e9 else f"{count / 1e6:,.1f} M"
        exact = "exact" if plan.settings.checked_by else "computed"
        kept = plan.settings.kept
        each = f"x {plan.settings.dtype_bytes:.4g} bytes" if kept is None else "kept quantized"
        named["weights"] = replace(weights, note=f"{short} {each}, {exact}")
    step = MemoryPart("a step", plan.step_bytes, "activations, logits, runtime")
    shown = (named.get("weights"), named.get("LoRA adapters"), step, named.get("KV cache"), named.get("unused"))
    return tuple(part for part in shown if part is not None)


def _too_long(plan: Plan, workload: Workload) -> "list[RenderableType]":
    too_long = num_too_long(plan, workload)
    if not too_long:
        return []
    of = f"{too_long:,} of {len(workload.requests):,} requests are"
    most = f"{plan.settings.config.max_positions:,} tokens of {plan.settings.model}"
    return [_line(f"{of} longer than the {most}: generate refuses or shortens them.", "yellow")]


def what_is_missing(plan: Plan) -> list[str]:
    """Memory needed beside memory available where the plan does not fit, and the changes that would make it fit."""
    settings = plan.settings
    wanted = settings.kv_memory_bytes
    asked = f" + KV cache {size(wanted)}" if wanted else ""
    total = plan.weights_bytes + plan.step_bytes + (wanted or 0)
    lines = [f"Does not fit: weights {size(plan.weights_bytes)} + a step {size(plan.step_bytes)}{asked} = {size(total)}"]
    if plan.missing_bytes:
        lines[0] += f" of {size(plan.memory_bytes)}, {size(plan.missing_bytes)} too much"
    room = (wanted or 0) - plan.missing_bytes
    if wanted and room >= settings.kv_bytes_per_token * settings.block_size:
        lines.append(f"The largest KV cache that fits is --kv-memory {room // 2**20}MiB.")
    elif wanted and not plan.missing_bytes:
        block = settings.kv_bytes_per_token * settings.block_size
        lines.append(f"--kv-memory is less than one block, {block:,} bytes: raise it or lower --block-size.")
    elif settings.device.kind == "gpu":
        lines.append("Try more of them (--num-gpus), a larger one (--gpu) or a smaller --dtype.")
    else:
        lines.append("Try --dtype bfloat16 or int8, a smaller model, or --gpu to see which would hold it.")
    return lines


def size(num_bytes: float) -> str:
    """GiB, or MiB below one."""
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.0f} MiB"


def _heading(plan: Plan) -> "RenderableType":
    from rich.text import Text

    settings = plan.settings
    count = f"{settings.num_devices} x " if settings.num_devices > 1 else ""
    kv = "" if settings.kv_dtype == settings.dtype else f", KV cache {settings.kv_dtype}"
    device = f" on {count}{settings.device.title}, {settings.dtype}{kv}"
    return Text.assemble((settings.model, "bold"), device)


def _line(text: str, style: str = "") -> "RenderableType":
    from rich.text import Text

    return Text(text, style)


def _command(model: str, flags: list[str]) -> "RenderableType":
    """The command to copy: one line where it fits, else continued with backslashes, a flag and its value never apart."""
    from pagecli.cli.profile.tables import CommandLines

    return CommandLines(["pagecli generate INPUT OUTPUT", f"--model {shlex.quote(model)}", *flag_pairs(flags)])


def flag_pairs(flags: list[str]) -> list[str]:
    """`--dtype bfloat16` of `--dtype`, `bfloat16`, as a shell reads them."""
    return [f"{name} {shlex.quote(value)}" for name, value in zip(flags[::2], flags[1::2], strict=True)]


def _memory_table(plan: Plan, parts: "Sequence[MemoryPart]") -> FittingTable:
    columns = [Column("memory", "name"), Column("size"), Column("%"), Column("", "bar"), Column("", "text")]
    rows: list[Sequence[str | Text] | None] = []
    for part in parts:
        share = part.num_bytes / plan.memory_bytes
        rows.append((part.name, size(part.num_bytes), f"{share:.1%}"[:-1], _bar(part, share), part.note))
    device = plan.settings.device
    each = f"{plan.settings.num_devices} x {size(device.memory_bytes)}, " if plan.settings.num_devices > 1 else ""
    counted = "as CUDA counts it" if device.kind == "gpu" else "free now"
    rows.append(("total", size(plan.memory_bytes), "", "", each + counted))
    return FittingTable(columns, rows)


def _bar(part: MemoryPart, share: float) -> "Text":
    from rich.text import Text

    eighths = min(round(share * BAR_WIDTH * 8), BAR_WIDTH * 8)
    whole, rest = divmod(eighths, 8)
    bar = "█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return Text(bar.ljust(BAR_WIDTH), COLORS.get(part.name, "yellow"))


def _lengths_table(plan: Plan, workload: Workload) -> FittingTable:
    """Percentiles of the lengths, and how many requests of that length the KV cache holds at a time."""
    columns = [Column("tokens", "name"), *map(Column, ("prompt", "output", "both", "blocks", "requests\nat a time"))]
    values = zip(_values(workload.prompt_stats), _values(workload.output_stats), plan.concurrency, strict=True)
    rows = []
    for prompt, output, one in values:
        requests = f"{one.num_requests:,}" if plan.fits else "-"
        rows.append((one.name, f"{prompt:,.0f}", f"{output:,.0f}", f"{one.tokens:,.0f}", f"{one.blocks:,}", requests))
    return FittingTable(columns, rows)


def process_tables(planned: ProcessPlan) -> "list[RenderableType]":
    """Memory of a rank, a worker and all of them; how fast all are together."""
    columns = [Column("process", "name"), *map(Column, ("processes", "weights", "KV cache", "a step", "together"))]
    rows: list[Sequence[str | Text] | None] = []
    for part in planned.memory:
        sizes = part.weights_bytes, part.kv_bytes, part.step_bytes
        rows.append((part.name, f"{part.num_processes:,}", *map(size, (*sizes, sum(sizes)))))
    shown: list[RenderableType] = [FittingTable(columns, rows)]
    if planned.output_tokens_per_second is not None:
        speed = f"{planned.output_tokens_per_second:,.0f} output tokens/s at best, {planned.rows_per_second:,.1f} rows/s"
        text = f"{planned.num_workers:,} workers of {planned.num_ranks:,} ranks: {speed}"
        text += ", which is what the driver can read and write" if planned.bound_by_driver else ""
        shown.append(_line(f"Estimate, not measured: {text}."))
    return shown


def _values(stats: LengthStats) -> tuple[float, float, float, float]:
    return stats.p50, stats.mean, stats.p95, stats.max


def _workload_line(workload: Workload) -> str:
    rate = f", {workload.requests_per_second:,.3g} a second" if workload.requests_per_second else ""
    return f"{workload.name}: {len(workload.requests):,} requests{rate}; {workload.note}"


def _batch_line(plan: Plan, workload: Workload) -> str:
    settings = plan.settings
    text = (
        f"KV cache: {settings.kv_bytes_per_token:,} bytes a token, {plan.kv_slots:,} slots in {plan.kv_blocks:,} blocks of "
        f"{settings.block_size}. Largest batch before memory: {plan.largest_batch:,} sequences"
    )
    limit = min(settings.max_num_seqs, len(workload.requests))
    why = "--max-num-seqs" if limit == settings.max_num_seqs else "the requests there are"
    return f"{text}, of which {why} take {limit:,}." if plan.largest_batch > limit else f"{text}."


def _answer(plan: Plan, workload: Workload, estimate: Estimate) -> str:
    whole = f"{duration(estimate.seconds)} for the {len(workload.requests):,} requests"
    whole += ", were all there from the start" if workload.requests_per_second else ""
    speed = f"{estimate.output_tokens_per_second:,.0f} output tokens/s at best"
    return f"Fits: {estimate.batch:,} requests at a time, {speed}, {whole}."


def _estimate_line(plan: Plan, estimate: Estimate) -> str:
    step = f"a step of {estimate.batch:,} sequences takes {estimate.step_seconds * 1e3:,.1f} ms and waits for {estimate.bound}"
    return f"The speed is an estimate, not measured (rates: {plan.settings.device.source}): {step}."


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _what_generate_cannot(plan: Plan) -> str:
    settings = plan.settings
    limits = []
    on_gpu = settings.device.kind == "gpu"
    if on_gpu:
        limits.append("has not run on a GPU yet")
    if settings.dtype not in (GPU_DTYPES if on_gpu else CPU_DTYPES):
        limits.append(f"takes no {settings.dtype} weights")
    if settings.kv_dtype not in kv_dtypes_of(plan):
        limits.append(f"has no KV cache of {settings.kv_dtype}")
    return f"(generate {', '.join(limits)}: there, this plan is for comparison.)" if limits else ""
