"""A model in memory with its tokenizer: what engines of different settings, one after the other, can work with."""

from dataclasses import dataclass

from pagecli.engine.config import EngineConfig
from pagecli.errors import UsageError
from pagecli.model.dtypes import KV_BYTES, KV_DTYPE, WEIGHT_BYTES
from pagecli.model.registry import Model, load_model, resolve_dtype, resolve_model
from pagecli.model.tokenizer import Tokenizer, load_tokenizer
from pagecli.runner import memory_budget


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Weights and tokenizer. Its forward pass has buffers of its own, so only one engine may run it at a time."""

    name: str
    load_format: str
    model: Model
    tokenizer: Tokenizer
    dtype: str
    max_batch_tokens: int  # the most that forward takes

    @property
    def kv_dtype(self) -> str:
        return KV_DTYPE[self.dtype]

    @property
    def element_bytes(self) -> int:
        """Bytes of a number in the KV cache."""
        return KV_BYTES[self.dtype]

    def check_serves(self, config: EngineConfig) -> None:
        """Raise UsageError if an engine of these settings would need another model, or a larger forward pass."""
        if (self.name, self.load_format, self.dtype) != (config.model, config.load_format, resolve_dtype(config.dtype)):
            raise UsageError(f"{self.name} ({self.dtype}) is loaded, and {config.model} asked for", "load it anew")
        if config.max_batch_tokens > self.max_batch_tokens:
            raise UsageError(
                f"{self.name} was loaded for {self.max_batch_tokens} tokens in a step, not {config.max_batch_tokens}",
                "load it with the largest max_batch_tokens first",
            )


def load(config: EngineConfig) -> LoadedModel:
    """Find and load what the settings name. Raises ModelError if it cannot be loaded or does not fit."""
    source = resolve_model(config.model, config.load_format)
    dtype = resolve_dtype(config.dtype)
    memory_budget.check_weights_fit(source.config.num_parameters, WEIGHT_BYTES[dtype], source.name)
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype, config.max_batch_tokens)
    return LoadedModel(config.model, config.load_format, model, tokenizer, dtype, config.max_batch_tokens)
