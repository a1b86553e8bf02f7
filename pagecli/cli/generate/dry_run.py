"""`generate --dry-run`: every row checked, where memory would go, how long it would take at best; nothing is written."""

from typing import TYPE_CHECKING

from pagecli.cli.generate.memory_guard import check_fits
from pagecli.cli.generate.rows import open_rows, prompt_length
from pagecli.cli.terminal.console import Console
from pagecli.core.dtypes import resolve_kv_dtype
from pagecli.core.model_config import ModelConfig
from pagecli.engine.scheduling.admission import Admission
from pagecli.errors import ExitCode
from pagecli.jobs.rows.row_preparer import RowPreparer
from pagecli.jobs.run.dry_run import CheckedRows, check_rows
from pagecli.jobs.writers.open_output import check_writable
from pagecli.kv.manager import KVManager
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.estimate import estimate
from pagecli.profiler.plan.local_device import host_device, multiplies_bfloat16
from pagecli.profiler.plan.plan import Plan, PlanSettings, make_plan
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest

if TYPE_CHECKING:
    from pagecli.cli.generate.job import GenerateJob


def run_dry(job: "GenerateJob", console: Console) -> int:
    """Prints what was found; returns 0, or 5 if there would be error rows. Raises PagecliError where the job would."""
    check_writable(job.output, job.overwrite)
    check_fits(job.engine)
    rows = open_rows(job)
    try:
        model = resolve_model(job.engine.model, job.engine.load_format)
        from pagecli.model.tokenizer.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(model)
        tokenizer.template_time = job.prompts.template_time
        config = model.config
        max_model_len = min(job.engine.max_model_len or config.max_positions, config.max_positions)
        plan = _plan(job, config, Workload("one row", (WorkloadRequest(1, 1),)))
        kv = KVManager(max(1, plan.kv_blocks), job.engine.block_size)
        admission = Admission(kv, config.vocab_size, max_model_len, job.engine.max_num_seqs)
        preparer = RowPreparer(
            tokenizer, config.vocab_size, job.prompts, job.params, prompt_length(job, tokenizer, max_model_len)
        )
        checked = check_rows(rows, preparer.prepare, admission.check)
    finally:
        rows.close()
    lines = _row_lines(checked) + _memory_lines(plan) + _time_lines(job, config, checked)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name.ljust(width)}  {value}")
    console.note("nothing was written")
    return ExitCode.ROWS if checked.num_error_rows else ExitCode.OK


def _plan(job: "GenerateJob", config: ModelConfig, workload: Workload) -> Plan:
    dtype = job.engine.dtype
    if dtype == "auto":
        dtype = "bfloat16" if multiplies_bfloat16() else "float32"
    settings = PlanSettings(
        job.engine.model,
        config,
        host_device(),
        dtype=dtype,
        kv_dtype=resolve_kv_dtype(job.engine.kv_dtype, dtype),
        kv_memory_bytes=job.engine.kv_memory_bytes,
        block_size=job.engine.block_size,
        max_num_seqs=job.engine.max_num_seqs,
        max_batch_tokens=job.engine.max_batch_tokens,
    )
    return make_plan(settings, workload)


def _row_lines(checked: CheckedRows) -> list[tuple[str, str]]:
    num_good = checked.num_rows - checked.num_error_rows
    lines = [("rows", f"{checked.num_rows:,}"), ("error rows", f"{checked.num_error_rows:,}")]
    lines += [(f"  {code}", f"{count:,}; the first, {checked.first_errors[code]}") for code, count in checked.errors.items()]
    mean = f" (mean {checked.prompt_tokens / num_good:,.1f}, longest {checked.longest_prompt:,})" if num_good else ""
    lines.append(("prompt tokens", f"{checked.prompt_tokens:,}{mean}"))
    lines.append(("output tokens", f"{checked.max_output_tokens:,} at most"))
    return lines


def _memory_lines(plan: Plan) -> list[tuple[str, str]]:
    parts = [(f"  {part.name}", f"{part.num_bytes / 2**20:,.0f} MiB  {part.note}".rstrip()) for part in plan.parts]
    return [("memory", f"{plan.memory_bytes / 2**20:,.0f} MiB available"), *parts]


def _time_lines(job: "GenerateJob", config: ModelConfig, checked: CheckedRows) -> list[tuple[str, str]]:
    """Of a sample if there are many requests, and then for all of them."""
    if not checked.lengths:
        return []
    workload = Workload("rows", tuple(WorkloadRequest(prompt, output) for prompt, output in checked.lengths))
    found = estimate(_plan(job, config, workload), workload)
    if found is None:
        return [("time", "unknown: the job does not fit")]
    seconds = found.seconds * checked.num_requests / len(checked.lengths)
    rate = f"{found.output_tokens_per_second:,.0f} output tokens/s"
    return [("time", f"about {_duration(seconds)} at {rate}, if every row takes all its max_tokens")]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    minutes = seconds / 60
    return f"{minutes:,.0f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
