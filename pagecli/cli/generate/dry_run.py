"""`generate --dry-run`: checks every row, shows the first prompts, the memory plan and the least time; nothing is written."""

import sys
import textwrap
from typing import TYPE_CHECKING

from pagecli.cli.generate.job import GenerateJob, check_chat, open_rows, prompt_length
from pagecli.cli.generate.model_defaults import with_model_defaults
from pagecli.cli.terminal.console import Console, name_value_lines, printable
from pagecli.core.engine_config import EngineConfig
from pagecli.devices import memory
from pagecli.engine import loaded_model
from pagecli.engine.loaded_model import ResolvedModel
from pagecli.engine.replicas import admission_of
from pagecli.errors import ExitCode
from pagecli.jobs.rows.row_preparer import RowPreparer
from pagecli.jobs.run.dry_run import CheckedRows, check_rows
from pagecli.jobs.writers.open_output import check_writable
from pagecli.profiler.plan.estimate import estimate
from pagecli.profiler.plan.local_device import find_gpus, host_device
from pagecli.profiler.plan.measured_rates import at_measured_rates
from pagecli.profiler.plan.plan import Plan, PlanSettings, make_plan
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest

if TYPE_CHECKING:
    from pagecli.model.tokenizer.tokenizer import Tokenizer

SHOWN_CHARACTERS = 4000  # of a prompt


def run_dry(job: GenerateJob, console: Console) -> int:
    """Prints the results; returns 0, or 5 if there would be error rows. Raises PagecliError where the job would."""
    check_writable(job.output, job.overwrite)
    loaded_model.check_fits(job.engine)
    rows = open_rows(job, console.warning)
    try:
        found = loaded_model.resolve(job.engine)
        job = with_model_defaults(job, found.source, console)
        from pagecli.model.tokenizer.loading import load_tokenizer

        tokenizer = load_tokenizer(found.source)
        tokenizer.template_time = job.prompts.template_time
        check_chat(job, tokenizer)
        config = found.source.config
        max_model_len = min(job.engine.max_model_len or config.max_positions, config.max_positions)
        _check_cache(job.engine, found, max_model_len)
        plan = _plan(job, found, Workload("one row", (WorkloadRequest(1, 1),)))
        admission = admission_of(job.engine, config.vocab_size, max_model_len, plan.kv_blocks)
        preparer = RowPreparer(
            tokenizer, config.vocab_size, job.prompts, job.params, prompt_length(job, tokenizer, max_model_len), job.of_model
        )
        checked = check_rows(rows, preparer.prepare, admission.check)
    finally:
        rows.close()
    lines = _row_lines(checked) + _memory_lines(plan) + _time_lines(job, found, checked)
    console.end_transient()
    print("\n".join(name_value_lines(lines, sys.stdout)))
    for location, token_ids in checked.first:
        print(_shown_prompt(location, token_ids, tokenizer))
    console.note("nothing was written")
    return ExitCode.ROWS if checked.num_error_rows else ExitCode.OK


def _check_cache(config: EngineConfig, found: ResolvedModel, max_model_len: int) -> None:
    """Raises ModelError where the engine would for a KV cache, or swap memory, of no block or of too many."""
    bytes_each = memory.block_bytes(found.source.config, config.block_size, found.kv_dtype)
    memory.num_swap_blocks(config.swap_memory_bytes, config.preemption, bytes_each)
    if found.device == "cpu":
        useful = memory.most_useful_blocks(config.max_num_seqs, max_model_len, config.block_size)
        memory.num_kv_blocks(config.kv_memory_bytes, bytes_each, useful)


def _plan(job: GenerateJob, found: ResolvedModel, workload: Workload) -> Plan:
    gpu = find_gpus().device if found.device == "cuda" else None
    settings = PlanSettings(
        job.engine.model,
        found.source.config,
        at_measured_rates(gpu or host_device()),
        dtype=found.dtype,
        kv_dtype=found.kv_dtype,
        kv_memory_bytes=job.engine.kv_memory_bytes,
        block_size=job.engine.block_size,
        max_num_seqs=job.engine.max_num_seqs,
        max_batch_tokens=job.engine.max_batch_tokens,
        kept=memory.kept_of(found.source),
        adapter_bytes=memory.adapter_bytes(found.source),
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


def _shown_prompt(location: str, token_ids: list[int], tokenizer: "Tokenizer") -> str:
    """The prompt as the model gets it, special tokens included; the middle of a long one is left out."""
    text = tokenizer.decode(token_ids, skip_special_tokens=False)
    if len(text) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
    lines = textwrap.indent(printable(text, "\n\t"), "    ", lambda line: True)
    return f"\nprompt of {location}, {len(token_ids):,} tokens:\n{lines}"


def _memory_lines(plan: Plan) -> list[tuple[str, str]]:
    parts = [(f"  {part.name}", f"{part.num_bytes / 2**20:,.0f} MiB  {part.note}".rstrip()) for part in plan.parts]
    return [("memory", f"{plan.memory_bytes / 2**20:,.0f} MiB available"), *parts]


def _time_lines(job: GenerateJob, found: ResolvedModel, checked: CheckedRows) -> list[tuple[str, str]]:
    """Of a sample if there are many requests, and then for all of them."""
    if not checked.lengths:
        return []
    workload = Workload("rows", tuple(WorkloadRequest(prompt, output) for prompt, output in checked.lengths))
    estimated = estimate(_plan(job, found, workload), workload)
    if estimated is None:
        return [("time", "unknown: the job does not fit")]
    seconds = estimated.seconds * checked.num_requests / len(checked.lengths)
    rate = f"{estimated.output_tokens_per_second:,.0f} output tokens/s"
    return [("time", f"about {_duration(seconds)} at {rate}, if every row takes all its max_tokens")]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    minutes = seconds / 60
    return f"{minutes:,.0f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
