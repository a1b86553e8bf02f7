"""One quantized layer of a checkpoint, as the formats' readers see it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pagecli.core.arrays import Array, to_float32
from pagecli.core.model_config import QuantizationConfig
from pagecli.errors import ModelError
from pagecli.model.weights.quantized import QuantizedTensor
from pagecli.model.weights.safetensors_file import SafetensorsSource


@dataclass(frozen=True, slots=True)
class Layer:
    """The tensors of the checkpoint whose names begin with `name`; of those that hold several experts' that of `expert`."""

    source: SafetensorsSource
    name: str
    config: QuantizationConfig
    expert: int | None = None

    def has(self, end: str) -> bool:
        return self.source.has(self.name + end)

    def raw(self, end: str) -> Array:
        """The tensor's numbers; of float8 the bytes. Raises ModelError where there is none."""
        tensor = self.source.raw(self.name + end)
        return tensor if self.expert is None else tensor[self.expert]

    def scales(self, end: str) -> Array:
        """float32 values; bytes are exponents of 2 (e8m0 of the OCP's microscaling formats)."""
        found = self.raw(end)
        return exponents(found) if found.dtype == np.uint8 else to_float32(found)

    def damaged(self) -> ModelError:
        """The error for tensors of other shapes or types than the format has."""
        what = f"{self.source.where}: {self.name} is not packed as quantization_config says"
        return ModelError(what, "is config.json its own?")


@dataclass(frozen=True, slots=True)
class Format:
    """How layers of one layout are read."""

    numbers: tuple[tuple[str, str], ...]  # (end of a weight's name in a program, end of the tensor that has its numbers)
    beside: tuple[str, ...]  # ends of a layer's other tensors
    values: Callable[[Layer], Array]  # float32 [N, K]
    quantized: Callable[[Layer], QuantizedTensor | None]  # the same; None where it cannot stay so


def exponents(e8m0: Array) -> Array:
    """float32: 2 ** (n - 127), and NaN for 255."""
    powers = np.full(256, np.nan, np.float32)
    powers[:255] = np.ldexp(np.float32(1), np.arange(255) - 127)
    return powers[e8m0]


def halves(scale: Array) -> Array:
    """float16 where that holds the float32 scales exactly, else themselves."""
    with np.errstate(over="ignore"):
        found = scale.astype(np.float16)
    return found if np.array_equal(found.astype(np.float32), scale) else scale


def kept_group(columns: int) -> int:
    """The largest group that kernels take of so many columns with one scale; 0: none."""
    return next((group for group in (128, 64, 32) if columns % group == 0), 0)


def with_kept_groups(tensor: QuantizedTensor) -> QuantizedTensor | None:
    """The same matrix in groups that kernels take, unless those do not divide its own."""
    group = kept_group(tensor.format.group)
    return None if group == 0 else tensor if group == tensor.format.group else tensor.with_groups(group)


def not_kept(layer: Layer) -> None:
    """`Format.quantized` of formats whose numbers no kernel takes."""
