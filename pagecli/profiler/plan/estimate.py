"""The best speed of a planned job, by the roofline of its steps; no estimate where the plan does not fit."""

from dataclasses import dataclass

from pagecli.core.dtypes import CPU_KV_DTYPES, KV_DTYPE
from pagecli.devices.limits import gpu_kv_dtypes
from pagecli.profiler.plan.plan import Plan
from pagecli.profiler.plan.roofline import StepTime
from pagecli.profiler.workloads.workloads import Workload


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of the whole workload as one batch job, all requests there from the start."""

    batch: int  # sequences that decode in a step
    mean_context_tokens: float  # of a sequence in a step
    step_seconds: float
    output_tokens_per_second: float
    seconds: float
    bound: str  # "memory" or "compute": which of the two bounds a step's time


def estimate(plan: Plan, workload: Workload) -> Estimate | None:
    """The estimate for `workload` under `plan`, None if the plan does not fit.

    In a steady step `batch` sequences decode, and for each of them a share of a prompt is computed, mean prompt / mean output
    tokens, so that finished ones are replaced. The last of the batch run on with fewer beside them, one longest output at most.
    """
    if not plan.fits:
        return None
    settings = plan.settings
    requests = workload.requests
    step_time = step_time_of(plan)
    outputs = sum(r.output_tokens for r in requests)
    prompts = sum(r.prompt_tokens for r in requests)
    # A sequence's context is its prompt and half its output on average; long outputs are met in more steps than short ones.
    context = sum((r.prompt_tokens + (r.output_tokens + 1) / 2) * r.output_tokens for r in requests) / outputs
    batch = max(1, min(plan.largest_batch, settings.max_num_seqs, len(requests)))
    prefill = batch * prompts / outputs
    step = float(step_time.seconds(batch + prefill, float(batch), batch * context, batch * context + prefill * context / 2))
    longest = max(r.output_tokens for r in requests)
    alone = float(step_time.seconds(1.0, 1.0, context))
    steady_steps = outputs / batch
    # Unless all run in one batch the tail overlaps the rest; half its length, at the speed of a sequence alone, is left over.
    tail = min(longest / 2, steady_steps) * alone
    seconds = steady_steps * step + tail
    memory_bound = step_time.is_memory_bound(batch + prefill, batch, batch * context)
    return Estimate(batch, context, step, outputs / seconds, seconds, "memory" if memory_bound else "compute")


def step_time_of(plan: Plan) -> StepTime:
    """The step-time model of the plan's model and devices."""
    settings = plan.settings
    return StepTime(
        settings.config,
        settings.device,
        settings.dtype_bytes,
        settings.num_devices,
        settings.kv_bytes_per_token,
        kept=settings.kept,
    )


def kv_dtypes_of(plan: Plan) -> tuple[str, ...]:
    """Those that `generate` takes for the plan's KV cache."""
    settings = plan.settings
    return gpu_kv_dtypes(settings.dtype, settings.config.head_dim) if settings.device.kind == "gpu" else CPU_KV_DTYPES


def generate_flags(plan: Plan, workload: Workload) -> list[str]:
    """The flags that give `generate` this plan: no more KV memory than the batch can fill, whole MiB."""
    settings = plan.settings
    if not plan.fits:
        return []
    batch = max(1, min(plan.largest_batch, settings.max_num_seqs))
    longest_blocks = -(-workload.total_stats.max // settings.block_size)
    block_bytes = settings.kv_bytes_per_token * settings.block_size
    useful_bytes = batch * longest_blocks * block_bytes
    # Rounded up where the batch is the limit, down where memory is.
    mebibytes = -(-useful_bytes // 2**20) if useful_bytes < plan.kv_memory_bytes else plan.kv_memory_bytes // 2**20
    on_gpu = settings.device.kind == "gpu"
    own_kv_dtype = settings.kv_dtype in kv_dtypes_of(plan) and settings.kv_dtype != KV_DTYPE[settings.dtype]
    return [
        *(("--device", "cuda") if on_gpu else ()),
        *("--dtype", settings.dtype),
        *(("--quantization", "keep") if settings.kept is not None else ()),
        *(("--kv-dtype", settings.kv_dtype) if own_kv_dtype else ()),
        *("--block-size", str(settings.block_size)),
        *("--kv-memory", f"{mebibytes}MiB"),
        *("--max-num-seqs", str(batch)),
        *("--max-batch-tokens", str(max(settings.max_batch_tokens, batch))),
    ]
