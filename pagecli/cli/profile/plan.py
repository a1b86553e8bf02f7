"""The plan part of a profile: the device that the flags select, its plan, and its title in the report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from pagecli.cli.generate.options import named_adapters, parse_memory_size
from pagecli.cli.profile.options import ProfileOptions
from pagecli.core.dtypes import KV_DTYPE
from pagecli.core.engine_config import EngineConfig, Quantization
from pagecli.core.model_config import ModelConfig
from pagecli.devices import memory
from pagecli.devices.cuda.batch_limits import batch_limits
from pagecli.errors import UsageError
from pagecli.model.build_program import build
from pagecli.model.registry import with_adapters
from pagecli.model.source import ModelSource
from pagecli.model.stored_tensors import StoredTensors
from pagecli.profiler.plan.gpus import Device, find_gpu
from pagecli.profiler.plan.local_device import LocalGpus, find_gpus, host_device, isa, multiplies_bfloat16, part_of
from pagecli.profiler.plan.measured_rates import at_measured_rates
from pagecli.profiler.plan.plan import Plan, PlanSettings, make_plan, smallest_that_fits
from pagecli.profiler.plan.processes import check_count
from pagecli.profiler.workloads.workloads import Workload

# Tried in this order where this machine has no GPU and --gpu is not given.
ASSUMED_GPUS = ("t4", "l4", "a100-40gb", "a100-80gb", "h200", "b200")


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """The plan, and the workload it is for: input of the other parts of a profile."""

    plan: Plan
    workload: Workload
    device_note: str  # how the device was chosen, in one line, or nothing
    chosen_by_user: bool  # --gpu named it: that it does not fit is then the answer, with exit code 4

    @property
    def config(self) -> ModelConfig:
        return self.plan.settings.config


@dataclass(frozen=True, slots=True)
class _Asked:
    """The flags of the plan, read."""

    model: str
    source: ModelSource
    dtype: str
    quantization: Quantization
    kv_dtype: str
    kv_memory_bytes: int | None
    block_size: int
    max_num_seqs: int | None
    max_batch_tokens: int | None
    adapter_bytes: int
    checked_by: str = ""

    def settings(self, device: Device, num_devices: int = 1) -> PlanSettings:
        on_gpu = device.kind == "gpu"
        dtype = self.dtype
        if dtype == "auto":
            dtype = "bfloat16" if on_gpu or multiplies_bfloat16() else "float32"
        gpu_bytes = device.memory_bytes if on_gpu else None
        max_num_seqs, max_batch_tokens = batch_limits(gpu_bytes, self.max_num_seqs, self.max_batch_tokens)
        settings = PlanSettings(
            model=self.model,
            config=self.source.config,
            device=device,
            num_devices=num_devices,
            dtype=dtype,
            kv_dtype=KV_DTYPE.get(dtype, dtype) if self.kv_dtype == "auto" else self.kv_dtype,
            kv_memory_bytes=self.kv_memory_bytes,
            block_size=self.block_size,
            max_num_seqs=max_num_seqs,
            max_batch_tokens=max_batch_tokens,
            adapter_bytes=self.adapter_bytes,
            checked_by=self.checked_by,
        )
        return settings if on_gpu else replace(settings, kept=memory.kept_of(self._on_a_cpu(settings)))

    def _on_a_cpu(self, settings: PlanSettings) -> ModelSource:
        """The source that says whether quantized weights stay so, as an engine of these settings has it. Raises UsageError."""
        config = EngineConfig(
            self.model,
            dtype=settings.dtype,  # type: ignore[arg-type]
            quantization=self.quantization,
            kv_dtype=settings.kv_dtype,  # type: ignore[arg-type]
            kv_memory_bytes=settings.kv_memory_bytes,
            max_num_seqs=settings.max_num_seqs,
            max_batch_tokens=max(settings.max_batch_tokens, settings.max_num_seqs),
        )
        available = settings.device.memory_bytes
        return memory.with_quantization(self.source, config, "cpu", settings.dtype, available, isa())


def checked_by(source: ModelSource, stored: StoredTensors | None, warn: Callable[[str], None]) -> str:
    """What says the same as the config of the weights' sizes: the headers of the checkpoint; "" where nothing does."""
    if stored is None or source.config.quantization is not None:
        return ""
    if difference := stored.difference(build(source.config)):
        warn(f"{source.name}: config.json and {stored.source} differ, so sizes are computed: {difference}")
        return ""
    return stored.source


def plan_job(options: ProfileOptions, source: ModelSource, workload: Workload, checked_by: str = "") -> PlannedJob:
    """The plan that the flags ask for. `checked_by`: see PlanSettings. Raises UsageError."""
    source = with_adapters(source, options.merge_lora, named_adapters(options.lora))
    asked = _Asked(
        model=options.model,
        source=source,
        dtype=options.dtype,
        quantization=options.quantization,
        kv_dtype=options.kv_dtype,
        kv_memory_bytes=parse_memory_size("--kv-memory", options.kv_memory),
        block_size=options.block_size,
        max_num_seqs=options.max_num_seqs,
        max_batch_tokens=options.max_batch_tokens,
        adapter_bytes=memory.adapter_bytes(source),
        checked_by=checked_by,
    )
    gpu, num_gpus = options.gpu, options.num_gpus
    if options.tensor_parallel_size is not None:
        check_count("--tensor-parallel-size", options.tensor_parallel_size, "--num-gpus", num_gpus)
    if gpu.strip().lower() != "auto":
        if options.quantization == "keep":
            raise UsageError(f"--quantization keep with --gpu {gpu}", "leave one out: GPUs dequantize weights at load")
        plan = make_plan(asked.settings(find_gpu(gpu), num_gpus or options.tensor_parallel_size or 1), workload)
        return PlannedJob(plan, workload, "", chosen_by_user=True)
    return _plan_automatically(asked, workload, num_gpus, options.tensor_parallel_size, options.workers or 1)


def _plan_automatically(
    asked: _Asked, workload: Workload, num_gpus: int | None, num_ranks: int | None, num_workers: int
) -> PlannedJob:
    """This machine's GPUs, else its RAM, in bfloat16 if it must be, else the smallest of the catalogue that holds it."""

    def plan_on(device: Device, num_devices: int, asked: _Asked = asked) -> Plan:
        return make_plan(asked.settings(device, num_devices), workload)

    local = find_gpus() if asked.quantization != "keep" else LocalGpus(None, 0, "weights stay quantized on a CPU alone")
    if local.device is not None:
        gpu = at_measured_rates(local.device)
        asked_count = num_gpus or num_ranks
        counts = [asked_count] if asked_count else [count for count in (1, 2, 4, 8) if count <= local.num_devices]
        plans = [plan_on(gpu, count) for count in counts]
        plan = next((plan for plan in plans if plan.fits), plans[-1])
        if plan.fits or num_gpus:
            return PlannedJob(plan, workload, "", chosen_by_user=bool(num_gpus))
    elif num_gpus:
        raise UsageError(f"--num-gpus {num_gpus} without a GPU ({local.note})", "name one with --gpu, as a100-40gb")
    host = part_of(at_measured_rates(host_device()), num_workers)
    plan = plan_on(host, 1)
    if plan.fits:
        return PlannedJob(plan, workload, local.note, chosen_by_user=False)
    kv_memory_is_too_much = asked.kv_memory_bytes is not None and plan_on(host, 1, replace(asked, kv_memory_bytes=None)).fits
    if kv_memory_is_too_much or asked.quantization == "keep":
        return PlannedJob(plan, workload, local.note, chosen_by_user=True)
    if asked.dtype == "auto" and plan.settings.dtype == "float32":
        half = plan_on(host, 1, replace(asked, dtype="bfloat16"))
        if half.fits:
            return PlannedJob(half, workload, f"{local.note}; float32 does not fit this machine, bfloat16 does", False)
    needed = f"{asked.model} does not fit this machine ({host.memory_bytes / 2**30:.1f} GiB available)"
    found = smallest_that_fits(partial(plan_on), [find_gpu(name) for name in ASSUMED_GPUS])
    if found is None:
        return PlannedJob(plan, workload, f"{needed}, and none of the catalogue's GPUs", chosen_by_user=False)
    return PlannedJob(found, workload, f"{needed}: planned for what would hold it; --gpu names another", chosen_by_user=False)
