"""A model in memory with its tokenizer, shared by engines of different settings, one after the other; its compute threads."""

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pagecli.core.dtypes import KV_DTYPES
from pagecli.core.engine_config import EngineConfig
from pagecli.devices import base, memory
from pagecli.devices.base import Device, Model, Runner, RunSettings
from pagecli.devices.cpu import kernels
from pagecli.errors import UsageError
from pagecli.model.registry import resolve_engine_model
from pagecli.model.source import ModelSource
from pagecli.model.tokenizer.loading import load_tokenizer
from pagecli.model.tokenizer.tokenizer import Tokenizer

# Objects made and not freed, after which Python looks for cycles among them. What steps make lives as long as its row, or is
# freed by its count: at the interpreter's 700 that looking is a tenth of a step's work beside the model.
YOUNG_OBJECTS = 20_000


def configure(num_threads: int | None) -> int:
    """Use `num_threads` threads, or OMP_NUM_THREADS, or one for each core this process may use; returns the number. Garbage is
    collected after YOUNG_OBJECTS, unless the program has asked for later or never."""
    if 0 < gc.get_threshold()[0] < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS)
    chosen = num_threads or default_threads()
    kernels.set_num_threads(chosen)
    return chosen


def default_threads() -> int:
    """OMP_NUM_THREADS, or one for each core this process may use."""
    return _omp_num_threads() or usable_cores()


def _omp_num_threads() -> int | None:
    """The usual variable that limits a program's threads, of a list for nested teams the first number; None if it is none."""
    value = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(value) if value.isdecimal() and int(value) > 0 else None


def usable_cores() -> int:
    """Physical cores in this process's affinity mask, and no more than its cgroup's CPU quota."""
    cpus = os.sched_getaffinity(0)
    cores = {_core_of(cpu) for cpu in cpus}
    return max(1, min(len(cores), cgroup_quota() or len(cores)))


def _core_of(cpu: int) -> tuple[str, str]:
    """A key of the CPU's physical core, equal for its hardware threads."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "unknown", str(cpu)


def cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole CPUs that the cgroup's quota allows (of version 2, else of version 1), at least 1; None if there is no quota."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((root / name).read_text() for name in names).split())
        except (OSError, ValueError):  # ValueError: "max"
            continue
        if quota > 0 and period > 0:
            return max(1, round(quota / period))
    return None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Weights and tokenizer. Its forward pass has buffers of its own, so only one engine may run it at a time."""

    name: str
    load_format: str
    model: Model
    tokenizer: Tokenizer
    dtype: str
    max_batch_tokens: int  # the most that forward takes
    device: str = "cpu"  # its name
    merge_lora: str | None = None  # directory of the adapter that its weights contain
    loras: tuple[tuple[str, str], ...] = ()  # adapters beside its weights: (name, directory)

    def kv_dtype(self, config: EngineConfig) -> str:
        """Of the KV cache of an engine of these settings."""
        return config.kv_dtype_beside(self.dtype)

    def kv_bytes_per_token(self, config: EngineConfig) -> int:
        """Bytes of a token's K and V in that cache, all layers, scales included."""
        return memory.token_bytes(self.model.config, self.kv_dtype(config))

    def start(self, settings: RunSettings) -> Runner:
        """A runner of the model, on the device or the ranks that have it."""
        start = getattr(self.model, "start", None)
        return base.find(self.device).start(self.model, settings) if start is None else start(settings)

    def ranks(self) -> list[dict[str, Any]]:
        """A row for each rank; none of a model in this process."""
        stats = getattr(self.model, "rank_stats", None)
        return [] if stats is None else stats()

    def close(self) -> None:
        """Ends the processes that have the model, if others than this one."""
        close = getattr(self.model, "close", None)
        if close is not None:
            close()

    def check_serves(self, config: EngineConfig) -> None:
        """Raise UsageError if an engine of these settings would need another model, or a larger forward pass."""
        device = base.choose(config.device)
        _check_cache(config, device, self.dtype, self.model.config.head_dim)
        adapters = config.merge_lora, config.loras
        wanted = (config.model, config.load_format, *adapters, device.name, device.resolve_dtype(config.dtype))
        if (self.name, self.load_format, self.merge_lora, self.loras, self.device, self.dtype) != wanted:
            raise UsageError(f"{self.name} ({self.dtype}) is loaded, and {config.model} asked for", "load it anew")
        if config.max_batch_tokens > self.max_batch_tokens:
            raise UsageError(
                f"{self.name} was loaded for {self.max_batch_tokens} tokens in a step, not {config.max_batch_tokens}",
                "load it with the largest max_batch_tokens first",
            )


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The model that settings name, before any weight is read."""

    source: ModelSource
    device: str  # its name
    dtype: str
    kv_dtype: str


def resolve(config: EngineConfig, num_engines: int = 1) -> ResolvedModel:
    """Find the model that the settings name, for engines that share this machine's memory.

    Raises ModelError, UsageError as `load` does, but for the weights.
    """
    device = base.choose(config.device)
    source = resolve_engine_model(config)
    dtype = device.resolve_dtype(config.dtype)
    _check_cache(config, device, dtype, source.config.head_dim)
    of_each = memory.available_bytes() // num_engines
    source = memory.with_quantization(source, config, device.name, dtype, of_each, device.isa if device.name == "cpu" else "")
    return ResolvedModel(source, device.name, dtype, config.kv_dtype_beside(dtype))


def check_fits(config: EngineConfig, num_engines: int = 1) -> None:
    """Raises ModelError if `num_engines` engines of these settings do not fit on this machine. Nothing is downloaded."""
    if base.choose(config.device).name == "cpu":
        found = resolve(replace(config, load_format="dummy"), num_engines)
        memory.check_fits(config, found.source, found.dtype, num_engines)


def load(
    config: EngineConfig, on_loading: Callable[[int, int], None] | None = None, found: ResolvedModel | None = None
) -> LoadedModel:
    """Load the model that the settings name, which may have been `found`. Raises ModelError if it cannot be loaded or does
    not fit.

    `on_loading`: called with the parameters read so far and those of the model; of several ranks those of the last.
    """
    found = found or resolve(config)
    source, device, dtype = found.source, base.find(found.device), found.dtype
    if device.name == "cpu":
        memory.check_fits(config, source, dtype)
    elif device.name == "cuda":
        weights = memory.weight_bytes_of(source, memory.bytes_each(source.config, dtype))
        memory.check_weights_fit(weights // config.tensor_parallel_size, source.name, device.available_bytes())
    tokenizer = load_tokenizer(source)
    if config.num_segments > 1:
        model = _load_in_segments(config, replace(found, source=replace(source, on_read=on_loading)))
    else:
        model = device.load(replace(source, on_read=on_loading), dtype, config.max_batch_tokens)
    name, most = config.model, config.max_batch_tokens
    return LoadedModel(name, config.load_format, model, tokenizer, dtype, most, device.name, config.merge_lora, config.loras)


def hardware(device_name: str) -> tuple[str, tuple[str, ...]]:
    """The instruction set of a device, and those that it could use, best first; none of a GPU. Raises ModelError."""
    device = base.choose(device_name)
    return device.isa, tuple(kernels.supported_isas()) if device.name == "cpu" else ()


def _load_in_segments(config: EngineConfig, found: ResolvedModel) -> Model:
    """On several ranks, or on this process with the same sums. Raises UsageError, ModelError."""
    if found.device not in ("cpu", "cuda"):
        raise UsageError(
            f"tensor parallelism on {found.device}", "leave out --tensor-parallel-size, or use --device cpu or cuda"
        )
    if config.tensor_parallel_size > 1:
        from pagecli.distributed.group_model import load_group
        from pagecli.engine.placement import placement

        size = config.tensor_parallel_size
        num_threads = config.threads or max(1, default_threads() // size)
        return load_group(found.source, config, found.device, found.dtype, num_threads, placement(size))
    from pagecli.model.shards import check_divides, segment

    check_divides(found.source.config, config.num_segments, found.dtype, "--sum-segments")
    device: Any = base.find(found.device)
    return device.load(found.source, found.dtype, config.max_batch_tokens, lambda p: segment(p, config.num_segments))


def _check_cache(config: EngineConfig, device: Device, dtype: str, head_dim: int) -> None:
    if config.kv_dtype not in ("auto", *KV_DTYPES):
        raise UsageError(f"KV cache dtype {config.kv_dtype!r} is unknown", f"use auto, {', '.join(KV_DTYPES)}")
    device.check_cache(config.kv_dtype, config.block_size, dtype, head_dim)
