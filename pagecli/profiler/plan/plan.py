"""The memory plan: how a model divides a device's memory, and how many requests the KV cache then holds.

On GPUs:  KV memory = 0.95 x the devices' memory - weights - what a step needs
          what a step needs = activations + logits and sampling + runtime (context, allocator), 1,700 MiB a device or more
On a host the rule is the engine's own: 60 % of what is available after the weights, or --kv-memory.

`generate` needs no such rule on a GPU: it measures what the weights leave free and what a step and the graphs take of that, and
leaves 2 % of the first alone (devices/cuda/steps/memory_plan.py). On a GPU that is not there nothing can be measured, and the
rule is held to published numbers. Both have the bytes of a block from devices/memory.py.

The GPU rule has two constants. 0.95 is the share the system of the PagedAttention paper took by default when it was published;
1,700 MiB is what makes its Table 1's first row come out, OPT-13B on one A100-40GB:
    0.95 x 39.586 GiB - 23.941 GiB of weights - 1.660 GiB = 12.005 GiB = 983 blocks of 16 = 15,728 slots     (paper: 12, 15.7K)
The other two rows then follow within the paper's rounding, OPT-66B on 4 A100-40GB and OPT-175B on 8 A100-80GB:
    4 x (0.95 x 39.586 - 1.660) - 122.412 = 21.37 GiB,   9,712 slots                                          (paper: 21, 9.7K)
    8 x (0.95 x 79.320 - 1.660) - 325.226 = 264.32 GiB, 60,144 slots                                       (paper: 264, 60.1K)
The paper's parameter sizes, 26, 132 and 346 GB, are 2 bytes x 13, 66 and 173 billion; the exact ones are 25.7, 131.4 and 349.2.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pagecli.core.dtypes import KV_BYTES, KV_SCALE_BYTES
from pagecli.core.model_config import ModelConfig
from pagecli.devices.memory import (
    AUTO_SHARE,
    HOST_RUNTIME_BYTES,
    activation_bytes,
    bytes_beside,
    bytes_each,
    gpu_activation_bytes,
    gpu_logits_bytes,
    head_bounds_bytes,
    kv_bytes_per_token,
    logits_bytes,
)
from pagecli.model.build_program import build
from pagecli.model.source import QuantizedPart
from pagecli.profiler.plan.gpus import Device
from pagecli.profiler.recording.records import MemoryPart
from pagecli.profiler.workloads.workloads import Workload

GPU_SHARE = 0.95
GPU_STEP_BYTES = 1700 * 2**20
PLAN_KV_BYTES = KV_BYTES | {"float16": 2, "fp8": 1}  # of one number; int8 has scales beside them


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """The input of a plan. kv_memory_bytes None: the rule above decides."""

    model: str
    config: ModelConfig
    device: Device
    num_devices: int = 1
    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"
    kv_memory_bytes: int | None = None
    block_size: int = 16
    max_num_seqs: int = 256  # for which logits are kept
    max_batch_tokens: int = 2048  # for which activations are kept
    kept: QuantizedPart | None = None  # of the weights, what stays quantized
    adapter_bytes: int = 0  # of LoRA adapters that rows choose among
    checked_by: str = ""  # what the number of parameters was found in, as "the headers of 2 files"; "": the config alone

    @property
    def dtype_bytes(self) -> float:
        """Of a weight, on average."""
        return bytes_each(self.config, self.dtype)

    @property
    def kv_bytes_per_token(self) -> int:
        return kv_bytes_per_token(self.config, PLAN_KV_BYTES[self.kv_dtype], KV_SCALE_BYTES.get(self.kv_dtype, 0))


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many requests of one length fit at a time when each holds all its blocks, as it does at its end."""

    name: str  # p50, mean, p95, max: of prompt and output together
    tokens: float
    blocks: int
    num_requests: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A device's memory by part, over all devices together, in bytes. `fits`: at least one request can run."""

    settings: PlanSettings
    parts: tuple[MemoryPart, ...]  # sum to memory_bytes; left out what does not fit
    memory_bytes: int
    weights_bytes: int  # adapters included
    step_bytes: int  # activations, logits and sampling, runtime
    kv_memory_bytes: int  # 0 if the rest does not fit
    kv_blocks: int
    missing_bytes: int  # above 0: what is too much; then nothing fits
    concurrency: tuple[Concurrency, ...]
    largest_batch: int  # sequences that decode at a time, each with the blocks it holds on average over its life

    @property
    def kv_slots(self) -> int:
        return self.kv_blocks * self.settings.block_size

    @property
    def fits(self) -> bool:
        return self.missing_bytes == 0 and self.kv_blocks > 0


def make_plan(settings: PlanSettings, workload: Workload) -> Plan:
    """The plan of `settings`, with requests as long as those of `workload`. Nothing is raised when it does not fit."""
    memory = settings.device.memory_bytes * settings.num_devices
    weights = bytes_beside(settings.config, settings.dtype_bytes, settings.kept) + settings.adapter_bytes
    step_parts = _step_parts(settings)
    step = sum(part.num_bytes for part in step_parts)
    kept_back = int(memory * (1 - GPU_SHARE)) if settings.device.kind == "gpu" else 0
    room = memory - kept_back - weights - step
    wanted = settings.kv_memory_bytes
    if wanted is None:
        wanted = max(0, room if settings.device.kind == "gpu" else int((memory - weights) * AUTO_SHARE))
        wanted = min(wanted, max(0, room))
    elif settings.device.kind == "gpu":
        room += kept_back  # asked for outright, it may have what the rule keeps back
    missing = max(0, wanted - room, -room)
    block_bytes = settings.kv_bytes_per_token * settings.block_size
    blocks = 0 if missing else wanted // block_bytes
    kv = 0 if missing else wanted
    found = f"in {settings.checked_by}" if settings.checked_by else "computed"
    parameters = f"{build(settings.config).num_parameters:,} parameters ({found})"
    each = f"{settings.dtype_bytes:.4g}"
    kept = f", {settings.kept.num_elements:,} of them quantized" if settings.kept is not None else ""
    parts = [
        MemoryPart("weights", weights - settings.adapter_bytes, f"{parameters} x {each} bytes{kept}"),
        MemoryPart("LoRA adapters", settings.adapter_bytes, "in float32"),
        *step_parts,
        MemoryPart("KV cache", kv, f"{blocks:,} blocks of {settings.block_size} slots"),
        MemoryPart("unused", memory - weights - step - kv, _unused_note(settings)),
    ]
    fitting = _Fitting(blocks, settings.block_size, workload)
    return Plan(
        settings,
        tuple(part for part in parts if part.num_bytes > 0),
        memory,
        weights,
        step,
        kv,
        blocks,
        missing,
        fitting.concurrency(),
        fitting.largest_batch(),
    )


def _step_parts(settings: PlanSettings) -> list[MemoryPart]:
    """Activations, logits and runtime memory of a step in bytes, over all devices; each device has its own."""
    on_gpu = settings.device.kind == "gpu"
    activations = activation_bytes(settings.config, settings.max_batch_tokens)
    logits = logits_bytes(settings.config, settings.max_num_seqs)
    if on_gpu:
        element_bytes = 2 if settings.dtype_bytes < 4 else 4
        activations = gpu_activation_bytes(settings.config, settings.max_batch_tokens, element_bytes)
        logits = gpu_logits_bytes(settings.config, settings.max_num_seqs)
        runtime = max(0, GPU_STEP_BYTES - activations - logits)
        note = f"context, allocator: with the two above {GPU_STEP_BYTES // 2**20:,} MiB"
    else:
        runtime, note = HOST_RUNTIME_BYTES, "Python and libraries"
    bounds = 0 if on_gpu else head_bounds_bytes(settings.config, settings.dtype_bytes, settings.kept)
    each = f" on each of {settings.num_devices}" if settings.num_devices > 1 else ""
    return [
        MemoryPart("LM head's bounds", bounds, "a byte for each of its weights"),
        MemoryPart("activations", activations * settings.num_devices, f"{settings.max_batch_tokens:,} tokens a step{each}"),
        MemoryPart("logits, sampling", logits * settings.num_devices, f"{settings.max_num_seqs:,} sequences{each}"),
        MemoryPart("runtime", runtime * settings.num_devices, note + each),
    ]


def _unused_note(settings: PlanSettings) -> str:
    if settings.kv_memory_bytes is not None:
        return "what --kv-memory leaves"
    return f"{1 - GPU_SHARE:.0%} is left alone" if settings.device.kind == "gpu" else "for input, output and others"


@dataclass(frozen=True, slots=True)
class _Fitting:
    """How many requests of a workload fit into a number of blocks."""

    num_blocks: int
    block_size: int
    workload: Workload

    def concurrency(self) -> tuple[Concurrency, ...]:
        stats = self.workload.total_stats
        lengths = {"p50": stats.p50, "mean": stats.mean, "p95": stats.p95, "max": stats.max}
        return tuple(self._of(name, tokens) for name, tokens in lengths.items())

    def _of(self, name: str, tokens: float) -> Concurrency:
        blocks = -int(-tokens // self.block_size)
        return Concurrency(name, tokens, blocks, self.num_blocks // blocks)

    def largest_batch(self) -> int:
        """num_blocks / the blocks of a sequence in a step, averaged over the steps of all requests' lives."""
        steps = sum(request.output_tokens for request in self.workload.requests)
        held = sum(_blocks_over_life(r.prompt_tokens, r.output_tokens, self.block_size) for r in self.workload.requests)
        return int(self.num_blocks * steps / held)


def _blocks_over_life(prompt_tokens: int, output_tokens: int, block_size: int) -> int:
    """Sum over a request's steps of the blocks it holds; in step i it has prompt_tokens + i slots."""
    return _sum_of_blocks(prompt_tokens + output_tokens, block_size) - _sum_of_blocks(prompt_tokens, block_size)


def _sum_of_blocks(num_tokens: int, block_size: int) -> int:
    """ceil(1 / block_size) + ... + ceil((num_tokens - 1) / block_size) and the next; whole blocks first."""
    whole, rest = divmod(num_tokens, block_size)
    return block_size * whole * (whole + 1) // 2 + rest * (whole + 1)


def num_too_long(plan: Plan, workload: Workload) -> int:
    """Requests whose prompt and output together are more tokens than the model has positions for."""
    return sum(request.total_tokens > plan.settings.config.max_positions for request in workload.requests)


def smallest_that_fits(plan_on: Callable[[Device, int], Plan], devices: list[Device]) -> Plan | None:
    """The first plan with room for four of the longest requests, by number of devices and then in the order given."""
    for num_devices in (1, 2, 4, 8):
        for device in devices:
            plan = plan_on(device, num_devices)
            if plan.fits and plan.concurrency[-1].num_requests >= 4:
                return plan
    return None
