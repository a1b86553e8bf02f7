"""Weights in a model's GGUF file or files: mapped, and dequantized one tensor at a time by the gguf package."""

import math
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

from pagecli.core.arrays import Array, stored_as
from pagecli.core.model_config import ModelConfig
from pagecli.errors import ModelError
from pagecli.model.readers.gguf_header import GgufTensor, joined, read_gguf_parts
from pagecli.model.weights.gguf_blocks import BLOCK_TYPES
from pagecli.model.weights.quantized import QuantizedSource, StoredMatrix, StoredRows
from pagecli.model.weights.reader import MappedFile, check_shape, check_tensor, missing_tensor

_PLAIN = {
    gguf.GGMLQuantizationType.F32: "float32",
    gguf.GGMLQuantizationType.F16: "float16",
    gguf.GGMLQuantizationType.BF16: "bfloat16",
}
_ROWS_AT_ONCE = 32  # rows joined into one for dequantization: the gguf package works on few rows at a time, 3 times slower


class GgufSource(QuantizedSource):
    """A model's .gguf files, of which `path` is the first, by transformers' tensor names."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self.where = path
        parts = read_gguf_parts(path)
        self._header = joined(parts)
        self._part_of = {name: number for number, part in enumerate(parts) for name in part.tensors}
        self._parts = [(part, MappedFile(part.path)) for part in parts]
        self._names = gguf.get_tensor_name_map(_model_arch(self._header.architecture), config.num_layers)

    def folded(self, name: str) -> tuple[str, ...]:
        return "transposed", "heads", "offset"  # by llama.cpp's converter

    def stored_name(self, name: str) -> str | None:
        stored = self._stored_name(name)
        return stored if stored in self._header.tensors else None

    def release(self) -> None:
        for _, data in self._parts:
            data.release()

    def names(self) -> list[str]:
        return list(self._header.tensors)

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        tensor = self._tensor(name)
        values = self._values(tensor)
        if values.shape != shape and [n for n in values.shape if n != 1] == [n for n in shape if n != 1]:
            values = values.reshape(shape)  # a dimension of 1 is not written
        return check_tensor(self.where, tensor.name, values, shape)

    def read_expert(self, name: str, expert: int, shape: tuple[int, ...]) -> Array:
        tensor = self._tensor(name)
        check_shape(self.where, tensor.name, tensor.shape, shape)
        return check_tensor(self.where, tensor.name, self._values(tensor, expert), shape[1:])

    def read_quantized(self, name: str, shape: tuple[int, ...], expert: int | None = None) -> StoredMatrix | None:
        tensor = self._header.tensors.get(self._stored_name(name))
        if tensor is None or tensor.shape != shape:
            return None
        known = BLOCK_TYPES.get(tensor.ggml_type)
        if known is None:
            return None
        rows = self._stored(tensor, expert)[0].reshape(shape[-2], -1)
        if not known.can_stay(rows):
            return None
        return StoredMatrix([StoredRows(rows, known.format, shape[-1], known.take_apart, self.release)])

    def _tensor(self, name: str) -> GgufTensor:
        tensor = self._header.tensors.get(self._stored_name(name))
        if tensor is None:
            raise missing_tensor(self.where, self._stored_name(name))
        return tensor

    def _stored_name(self, name: str) -> str:
        tried = (self._names.get_name(each, (".weight", ".bias")) for each in (name, name.removeprefix("transformer.")))
        return next((found for found in tried if found), name)

    def _stored(self, tensor: GgufTensor, expert: int | None = None) -> tuple[Array, gguf.GGMLQuantizationType]:
        """A tensor's bytes, or those of one expert's part of it, and its type."""
        try:
            kind = gguf.GGMLQuantizationType(tensor.ggml_type)
            block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise ModelError(f"{self.where}: tensor {tensor.name} is of unknown type {tensor.ggml_type}") from error
        if not tensor.shape or 0 in tensor.shape or tensor.shape[-1] % block_size:
            raise ModelError(
                f"{self.where}: tensor {tensor.name} of shape {list(tensor.shape)} is not whole {kind.name} blocks"
            )
        header, data = self._parts[self._part_of[tensor.name]]
        start = header.data_start + tensor.offset
        end = start + math.prod(tensor.shape) // block_size * type_size
        if end > len(data):
            raise ModelError(
                f"{header.path}: truncated: {tensor.name} ends {end - len(data)} bytes past the end", "download it again"
            )
        if expert is not None:
            size = (end - start) // tensor.shape[0]
            start, end = start + expert * size, start + (expert + 1) * size
        return data.view(start, end), kind

    def _values(self, tensor: GgufTensor, expert: int | None = None) -> Array:
        stored, kind = self._stored(tensor, expert)
        shape = tensor.shape if expert is None else tensor.shape[1:]
        if kind in _PLAIN:
            return stored.view(stored_as(_PLAIN[kind])).reshape(shape)
        num_rows = math.prod(shape[:-1])
        joined = math.gcd(num_rows, _ROWS_AT_ONCE)
        try:
            values = dequantize(stored.reshape(num_rows // joined, -1), kind)
        except NotImplementedError as error:  # what gguf raises for a type that it has no reader of
            raise ModelError(
                f"{self.where}: tensor {tensor.name} is quantized as {kind.name}, which is not supported"
            ) from error
        return np.asarray(values).reshape(shape)


def _model_arch(name: str) -> gguf.MODEL_ARCH:
    return next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
