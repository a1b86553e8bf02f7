"""A GGUF file's tensors where the architecture's description says that it has others than a transformers checkpoint."""

from pathlib import Path

import numpy as np

from pagecli.core.arrays import Array, to_float32
from pagecli.core.model_config import ModelConfig
from pagecli.model import families
from pagecli.model.decoder import Decoder
from pagecli.model.weights import quantized
from pagecli.model.weights.gguf_file import GgufSource
from pagecli.model.weights.quantized import AnyQuantized, QuantizedSource
from pagecli.model.weights.reader import WeightSource

_ENDS = ((".weight", ".weight"), (".bias", ".bias"), ("_bias", ".bias"))  # of parameters, in a checkpoint and in a file


class GgufLayout(QuantizedSource):
    """`source` by the names of a checkpoint, some of which stand for the rows of several tensors."""

    def __init__(self, source: GgufSource, decoder: Decoder, num_layers: int) -> None:
        assert decoder.gguf is not None
        self._source = source
        self._parts: dict[str, tuple[str, ...]] = {
            f"{decoder.layer}.{layer}.{name}": tuple(f"{decoder.layer}.{layer}.{part}" for part in parts)
            for layer in range(num_layers)
            for name, parts in decoder.gguf.tensors
        }
        others = [part for parts in self._parts.values() for part in parts[1:]]
        self._second = {source.stored_name(part + end) for part in others for end in (".weight", ".bias")}

    @property
    def where(self) -> Path | str:
        return self._source.where

    def folded(self, name: str) -> tuple[str, ...]:
        done = self._source.folded(name)
        return (*done, "pairs") if len(self._in_place_of(name)) > 1 else done

    def stored_name(self, name: str) -> str | None:
        return self._source.stored_name(self._in_place_of(name)[0])

    def names(self) -> list[str]:
        return [name for name in self._source.names() if name not in self._second]

    def release(self) -> None:
        self._source.release()

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        parts = self._in_place_of(name)
        return _joined([self._source.read(part, _share(shape, 0, len(parts))) for part in parts])

    def read_expert(self, name: str, expert: int, shape: tuple[int, ...]) -> Array:
        parts = self._in_place_of(name)
        return _joined([self._source.read_expert(part, expert, _share(shape, 1, len(parts))) for part in parts])

    def read_quantized(self, name: str, shape: tuple[int, ...], expert: int | None = None) -> AnyQuantized | None:
        parts, axis = self._in_place_of(name), 0 if expert is None else 1
        read = [self._source.read_quantized(part, _share(shape, axis, len(parts)), expert) for part in parts]
        found: list[AnyQuantized] = [tensor for tensor in read if tensor is not None]
        return quantized.joined(found) if len(found) == len(parts) else None

    def _in_place_of(self, name: str) -> tuple[str, ...]:
        module, end = next(((name.removesuffix(old), new) for old, new in _ENDS if name.endswith(old)), (name, ".weight"))
        return tuple(part + end for part in self._parts.get(module, (module,)))


def _share(shape: tuple[int, ...], axis: int, count: int) -> tuple[int, ...]:
    """Of each of so many parts whose rows make up those of `shape`."""
    return *shape[:axis], shape[axis] // count, *shape[axis + 1 :]


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate([to_float32(part) for part in parts])


def open_gguf(path: Path, config: ModelConfig) -> WeightSource:
    """The model's files, of which `path` is the first. Raises ModelError."""
    source, decoder = GgufSource(path, config), families.describe(config.architecture)
    has_others = decoder.gguf is not None and decoder.gguf.tensors
    return GgufLayout(source, decoder, config.num_layers) if has_others else source
