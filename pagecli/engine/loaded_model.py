"""A model in memory with its tokenizer: what engines of different settings, one after the other, can work with."""

from dataclasses import dataclass

from pagecli.core.dtypes import (
    CPU_DTYPES,
    GPU_DTYPES,
    KV_BYTES,
    KV_DTYPE,
    KV_DTYPES,
    KV_SCALE_BYTES,
    WEIGHT_BYTES,
    resolve_kv_dtype,
)
from pagecli.core.engine_config import EngineConfig
from pagecli.devices.base import Model
from pagecli.devices.cpu import memory_budget
from pagecli.devices.cuda.presence import check_block_size, may_have_gpu
from pagecli.devices.loading import load_model, resolve_dtype
from pagecli.errors import UsageError
from pagecli.model.build_program import build
from pagecli.model.registry import ModelSource, resolve_model
from pagecli.model.tokenizer.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Weights and tokenizer. Its forward pass has buffers of its own, so only one engine may run it at a time."""

    name: str
    load_format: str
    model: Model
    tokenizer: Tokenizer
    dtype: str
    max_batch_tokens: int  # the most that forward takes
    device: str = "cpu"  # or "cuda"

    def kv_dtype(self, config: EngineConfig) -> str:
        """Of the KV cache of an engine of these settings."""
        return resolve_kv_dtype(config.kv_dtype, self.dtype)

    def kv_bytes_per_token(self, config: EngineConfig) -> int:
        """Bytes of a token's K and V in that cache, all layers, scales included."""
        kv_dtype = self.kv_dtype(config)
        return self.model.config.kv_bytes_per_token(KV_BYTES[kv_dtype], KV_SCALE_BYTES.get(kv_dtype, 0))

    def check_serves(self, config: EngineConfig) -> None:
        """Raise UsageError if an engine of these settings would need another model, or a larger forward pass."""
        device = device_of(config)
        _check_kv_dtype(config, device, self.dtype, self.model.config.head_dim)
        wanted = (config.model, config.load_format, device, dtype_of(config, device))
        if (self.name, self.load_format, self.device, self.dtype) != wanted:
            raise UsageError(f"{self.name} ({self.dtype}) is loaded, and {config.model} asked for", "load it anew")
        if config.max_batch_tokens > self.max_batch_tokens:
            raise UsageError(
                f"{self.name} was loaded for {self.max_batch_tokens} tokens in a step, not {config.max_batch_tokens}",
                "load it with the largest max_batch_tokens first",
            )


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What settings name, before any weight is read."""

    source: ModelSource
    device: str  # "cpu" or "cuda"
    dtype: str
    kv_dtype: str


def resolve(config: EngineConfig) -> ResolvedModel:
    """Find what the settings name. Raises ModelError, UsageError where `load` would for more than the weights themselves."""
    device = device_of(config)
    source = resolve_model(config.model, config.load_format)
    dtype = dtype_of(config, device)
    _check_kv_dtype(config, device, dtype, source.config.head_dim)
    if device == "cuda":
        check_block_size(config.block_size)
    return ResolvedModel(source, device, dtype, resolve_kv_dtype(config.kv_dtype, dtype))


def load(config: EngineConfig) -> LoadedModel:
    """Find and load what the settings name. Raises ModelError if it cannot be loaded or does not fit."""
    found = resolve(config)
    source, device, dtype = found.source, found.device, found.dtype
    available = _gpu_available_bytes() if device == "cuda" else None
    memory_budget.check_weights_fit(build(source.config).num_parameters, WEIGHT_BYTES[dtype], source.name, available)
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype, config.max_batch_tokens, device)
    return LoadedModel(config.model, config.load_format, model, tokenizer, dtype, config.max_batch_tokens, device)


def _gpu_available_bytes() -> int:
    from pagecli.devices.cuda.memory_plan import gpu_available_bytes

    return gpu_available_bytes()


def device_of(config: EngineConfig) -> str:
    """ "cpu" or "cuda". Raises ModelError if a GPU is asked for and cannot be used."""
    if config.device == "cpu" or (config.device == "auto" and not may_have_gpu()):
        return "cpu"
    from pagecli.devices.cuda import kernels

    if config.device == "auto":
        return "cuda" if kernels.has_device() else "cpu"
    kernels.find_device()
    return "cuda"


def _check_kv_dtype(config: EngineConfig, device: str, dtype: str, head_dim: int) -> None:
    if config.kv_dtype not in ("auto", *KV_DTYPES):
        raise UsageError(f"KV cache dtype {config.kv_dtype!r} is unknown", f"use auto, {', '.join(KV_DTYPES)}")
    if device == "cpu" and config.kv_dtype == "fp8":
        raise UsageError("--kv-dtype fp8 is for GPUs", "use --device cuda, or --kv-dtype int8")
    if device == "cuda":
        choices = [KV_DTYPE[dtype], *(["fp8"] if KV_DTYPE[dtype] == "bfloat16" and head_dim % 16 == 0 else [])]
        if config.kv_dtype not in ("auto", *choices):
            hint = f"use --kv-dtype {' or '.join(choices)}, or --device cpu"
            if dtype not in KV_DTYPES:  # a cache that goes with the weights alone
                hint = "leave out --kv-dtype"
            raise UsageError(f"on a GPU this model's K and V are not kept in --kv-dtype {config.kv_dtype}", hint)


def dtype_of(config: EngineConfig, device: str) -> str:
    if device != "cuda" and config.dtype in GPU_DTYPES and config.dtype not in CPU_DTYPES:
        raise UsageError(f"--dtype {config.dtype} is computed on a GPU only", "use --device cuda, or --dtype int8 or bfloat16")
    return "bfloat16" if device == "cuda" and config.dtype == "auto" else resolve_dtype(config.dtype)
