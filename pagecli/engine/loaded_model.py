"""A model in memory with its tokenizer: shared by engines of different settings, one after the other."""

from dataclasses import dataclass

from pagecli.core.dtypes import KV_BYTES, KV_DTYPES, KV_SCALE_BYTES, WEIGHT_BYTES, resolve_kv_dtype
from pagecli.core.engine_config import EngineConfig
from pagecli.devices import registry
from pagecli.devices.base import Device, Model
from pagecli.devices.cpu import memory_budget
from pagecli.errors import UsageError
from pagecli.model.build_program import build
from pagecli.model.registry import resolve_model
from pagecli.model.source import ModelSource
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
    device: str = "cpu"  # its name

    def kv_dtype(self, config: EngineConfig) -> str:
        """Of the KV cache of an engine of these settings."""
        return resolve_kv_dtype(config.kv_dtype, self.dtype)

    def kv_bytes_per_token(self, config: EngineConfig) -> int:
        """Bytes of a token's K and V in that cache, all layers, scales included."""
        kv_dtype = self.kv_dtype(config)
        return self.model.config.kv_bytes_per_token(KV_BYTES[kv_dtype], KV_SCALE_BYTES.get(kv_dtype, 0))

    def check_serves(self, config: EngineConfig) -> None:
        """Raise UsageError if an engine of these settings would need another model, or a larger forward pass."""
        device = registry.choose(config.device)
        _check_cache(config, device, self.dtype, self.model.config.head_dim)
        wanted = (config.model, config.load_format, device.name, device.resolve_dtype(config.dtype))
        if (self.name, self.load_format, self.device, self.dtype) != wanted:
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


def resolve(config: EngineConfig) -> ResolvedModel:
    """Find the model that the settings name. Raises ModelError, UsageError as `load` does, but for the weights."""
    device = registry.choose(config.device)
    source = resolve_model(config.model, config.load_format)
    dtype = device.resolve_dtype(config.dtype)
    _check_cache(config, device, dtype, source.config.head_dim)
    return ResolvedModel(source, device.name, dtype, resolve_kv_dtype(config.kv_dtype, dtype))


def load(config: EngineConfig) -> LoadedModel:
    """Find and load the model that the settings name. Raises ModelError if it cannot be loaded or does not fit."""
    found = resolve(config)
    source, device, dtype = found.source, registry.find(found.device), found.dtype
    num_parameters, available = build(source.config).num_parameters, device.available_bytes()
    memory_budget.check_weights_fit(num_parameters, WEIGHT_BYTES[dtype], source.name, available)
    tokenizer = load_tokenizer(source)
    model = device.load(source, dtype, config.max_batch_tokens)
    return LoadedModel(config.model, config.load_format, model, tokenizer, dtype, config.max_batch_tokens, device.name)


def _check_cache(config: EngineConfig, device: Device, dtype: str, head_dim: int) -> None:
    if config.kv_dtype not in ("auto", *KV_DTYPES):
        raise UsageError(f"KV cache dtype {config.kv_dtype!r} is unknown", f"use auto, {', '.join(KV_DTYPES)}")
    device.check_cache(config.kv_dtype, config.block_size, dtype, head_dim)
