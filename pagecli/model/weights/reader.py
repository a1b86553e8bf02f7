"""A model's weights read from their source one after the other, those that are used as one joined, and counted. The interface
of sources, their checks of a tensor, and the mapped file that they read from.

A source gives tensors one at a time, by the names transformers uses, whatever the file calls them, as views of the mapped file
where it can.
"""

import math
import mmap
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from pagecli.core import arrays
from pagecli.core.arrays import Array, name_of
from pagecli.core.model_config import ModelConfig
from pagecli.errors import ModelError
from pagecli.model import families
from pagecli.model.build_program import build
from pagecli.model.program import Program, Weight, stacked_name
from pagecli.model.weights import quantized
from pagecli.model.weights.layout import ordered, stored_shape, turned
from pagecli.model.weights.quantized import AnyQuantized, QuantizedSource

# Ends of names: tables that are computed here, causal masks of old checkpoints.
_HARMLESS = ("rotary_emb.inv_freq", ".masked_bias", ".attn.bias", ".attention.bias", "rope_freqs.weight")
_OTHER_PARTS = re.compile(r"^(model\.)?(vision_|multi_modal_projector|audio_|embed_vision)")  # beside a text model
_OF_QUANTIZED = re.compile(r"(qweight|qzeros|g_idx|scales?|_packed|_scale_inv|_shape|_blocks|absmax|SCB)$")  # ends of names
_ROWS_AT_ONCE = 4096  # of tensors that are compared

ReadQuantized = Callable[[QuantizedSource, str, tuple[int, ...]], AnyQuantized | None]


class WeightSource(Protocol):
    """One checkpoint, opened. `where` names it in errors."""

    @property
    def where(self) -> Path | str: ...

    def folded(self, name: str) -> tuple[str, ...]:
        """What tensor `name` has had done to it already (weights/layout.py)."""
        ...

    def stored_name(self, name: str) -> str | None:
        """The checkpoint's name of the tensor that transformers calls `name`; None where it has none."""
        ...

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        """Tensor `name`, float32, float16 or bfloat16 (as uint16); ModelError when it is missing, damaged or not of `shape`."""
        ...

    def release(self) -> None:
        """Free the memory of the tensors read so far; they have been packed."""
        ...

    def names(self) -> list[str]:
        """The checkpoint's tensors by its own names; empty for a source that has any tensor (dummy)."""
        ...


class WeightReader:
    """Reads a program's tensors for the CPU's and the GPU's loaders."""

    def __init__(self, source: WeightSource, on_read: Callable[[int, int], None] | None = None) -> None:
        """`on_read`: called after each weight with the parameters read so far and those of the model."""
        self.source = source
        self._on_read = on_read
        self._num_read = self._num_parameters = 0
        self.notes: list[str] = []  # for the user
        self._join_buffer = arrays.empty((0,), np.uint8)

    def program(self, config: ModelConfig) -> Program:
        """The model's program. Where config ties the LM head to the embeddings and the checkpoint has another head of its own
        (merged adapters, extended vocabularies), that one is kept, as transformers does from 5.8 on.
        """
        if config.tie_embeddings and self._has_own_head(config):
            head = families.describe(config.architecture).head
            self.notes.append(
                f"{self.source.where}: {head}.weight is not the embeddings, which the config ties it to; it is kept "
                "(tie_word_embeddings: false in config.json would say so)"
            )
            config = replace(config, tie_embeddings=False)
        program = build(config)
        self._num_parameters = program.num_parameters
        return program

    def _has_own_head(self, config: ModelConfig) -> bool:
        decoder, shape = families.describe(config.architecture), (config.vocab_size, config.embedding_size)
        names = [f"{name}.weight" for name in (decoder.head, decoder.embedding.name)]
        if any(self.source.stored_name(name) not in self.source.names() for name in names):
            return False
        head, embedding = (self.source.read(name, shape) for name in names)
        same = head.dtype == embedding.dtype and (
            head.ctypes.data == embedding.ctypes.data
            or all(
                np.array_equal(head[first : first + _ROWS_AT_ONCE], embedding[first : first + _ROWS_AT_ONCE])
                for first in range(0, len(head), _ROWS_AT_ONCE)
            )
        )
        self.source.release()
        return not same

    def joined(self, weight: Weight) -> Array:
        """A whole weight's tensors, joined as the program wants them: a view of the file, or memory that is used again."""
        self._count(sum(map(math.prod, weight.shapes)))
        if weight.is_stored_so:
            tensors = [self.source.read(name, shape) for name, shape in zip(weight.names, weight.shapes, strict=True)]
            return tensors[0] if len(tensors) == 1 else self._concatenated(tensors)
        pairs = zip(weight.names, weight.shapes, strict=True)
        return self._ordered(weight, [self._turned(weight, name, shape) for name, shape in pairs])

    def experts(self, weight: Weight) -> Iterator[Array]:
        """The matrix or vector of each expert, as `read` gives a weight that is one."""
        self._count(weight.num_elements)
        whole = weight.whole
        read = [self._expert_reader(whole, name, shape) for name, shape in zip(whole.names, whole.shapes, strict=True)]
        for expert in range(weight.experts):
            matrix = self._ordered(whole, [of_expert(expert) for of_expert in read])
            if weight.whole_rows:
                matrix = np.concatenate([matrix[first:last] for first, last in rows_of_parts(weight)])
            first = weight.first_column
            yield matrix[:, first : first + weight.columns] if weight.whole_columns else matrix

    def _expert_reader(self, weight: Weight, name: str, shape: tuple[int, ...]) -> Callable[[int], Array]:
        """What gives a tensor of each expert, or its part of the one that holds all, rows as the program wants them."""
        source = self.source
        if not self._is_stacked(name):
            return lambda expert: self._turned(weight, expert_name(name, expert), shape)
        stacked = stacked_name(name)
        done = source.folded(stacked)
        stored = stored_shape(weight, shape, done)
        if isinstance(source, QuantizedSource):
            return lambda expert: turned(weight, source.read_expert(stacked, expert, (weight.experts, *stored)), done)
        whole = source.read(stacked, (weight.experts, *stored))
        return lambda expert: turned(weight, whole[expert], done)

    def _turned(self, weight: Weight, name: str, shape: tuple[int, ...]) -> Array:
        """A tensor, its rows the program's rows."""
        done = self.source.folded(name)
        return turned(weight, self.source.read(name, stored_shape(weight, shape, done)), done)

    def _ordered(self, weight: Weight, parts: list[Array]) -> Array:
        done = self.source.folded(weight.names[0])
        return ordered(weight, parts[0] if len(parts) == 1 else self._concatenated(parts), done)

    def _count(self, num_parameters: int) -> None:
        if self._on_read is not None:
            self._num_read += num_parameters
            self._on_read(self._num_read, self._num_parameters)

    def _is_stacked(self, name: str) -> bool:
        """Whether one tensor holds all experts' parts; else each has its own, or the source has any tensor."""
        names = self.source.names()
        return bool(names) and not ("{}" in name and self.source.stored_name(name.format(0)) in names)

    def read(self, weight: Weight) -> Array:
        """`joined`, of a weight that may be parts of its tensors."""
        if not weight.is_part:
            return self.joined(weight)
        first, last = weight.first_column, weight.first_column + weight.columns
        parts = []
        for rows, start in self._rows_of_parts(weight):
            tensor = rows[start[0] : start[1]]
            parts.append(tensor[:, first:last] if weight.columns else tensor)
        return parts[0] if len(parts) == 1 else self._concatenated(parts)

    def quantized(self, weight: Weight) -> AnyQuantized | None:
        """`read`, quantized as the checkpoint has it; None where it has it otherwise, or where loading changes the numbers."""
        whole = weight.whole
        tensor = self._joined_quantized(whole, lambda source, name, shape: source.read_quantized(name, shape))
        if tensor is None:
            return None
        self._count(whole.num_elements)
        return self._part_of_quantized(weight, tensor)

    def quantized_expert(self, weight: Weight, expert: int) -> AnyQuantized | None:
        """`experts`, one of them, as `quantized` gives a weight that is one."""

        def read(source: QuantizedSource, name: str, shape: tuple[int, ...]) -> AnyQuantized | None:
            if self._is_stacked(name):
                return source.read_quantized(stacked_name(name), (weight.experts, *shape), expert)
            return source.read_quantized(expert_name(name, expert), shape)

        tensor = self._joined_quantized(weight.whole, read)
        if tensor is None:
            return None
        self._count(weight.num_elements // weight.experts)
        return self._part_of_quantized(weight, tensor)

    def _part_of_quantized(self, weight: Weight, tensor: AnyQuantized) -> AnyQuantized | None:
        """Of the tensors of a whole weight, one below the other, what the weight has; None where groups would be cut."""
        whole = weight.whole
        index = ordered(whole, np.arange(whole.num_rows), self.source.folded(whole.names[0]))
        if weight.whole_rows:
            index = np.concatenate([index[first:last] for first, last in rows_of_parts(weight)])
        if not np.array_equal(index, np.arange(tensor.shape[0])):
            tensor = tensor.rows(index)
        first = weight.first_column
        return tensor.columns(first, first + weight.columns) if weight.whole_columns else tensor

    def _joined_quantized(self, whole: Weight, read: ReadQuantized) -> AnyQuantized | None:
        """The tensors of a whole weight one below the other, unless they are scaled, offset or transposed at load."""
        source, layout = self.source, whole.layout
        if not isinstance(source, QuantizedSource):
            return None
        done = source.folded(stacked_name(whole.names[0]))
        is_turned = layout is not None and layout.transposed and "transposed" not in done
        if whole.scale != 1.0 or is_turned or (whole.offset and "offset" not in done):
            return None
        parts = [read(source, name, shape) for name, shape in zip(whole.names, whole.shapes, strict=True)]
        found = [part for part in parts if part is not None]
        return quantized.joined(found) if len(found) == len(parts) else None

    def _rows_of_parts(self, weight: Weight) -> Iterator[tuple[Array, tuple[int, int]]]:
        """Of each part what it is in, as the program wants that, and its first row and the one behind its last: in its tensor
        or, where rows change their order at load, in all of the weight's tensors."""
        whole = weight.whole
        if weight.layout is None:
            sizes = dict(zip(whole.names, whole.rows, strict=True))
            for index, name in enumerate(weight.names):
                start = weight.first_rows[index] if weight.first_rows else 0
                yield self.joined(replace(whole, names=(name,), rows=(sizes[name],))), (start, start + weight.rows[index])
            return
        joined = np.array(self.joined(whole))
        for rows in rows_of_parts(weight):
            yield joined, rows

    def check_nothing_left(self, program: Program) -> None:
        """Raise ModelError where the checkpoint has tensors that the program does not read: a bias or a norm more means another
        architecture than its config says, and wrong text, silently. Layers beyond the last one and what old files hold besides
        (tables that are computed here, the embeddings once more as the LM head) are let alone.
        """
        read = {self.source.stored_name(name) for weight in program.weights() for name in weight.tensor_names()}
        read.add(self.source.stored_name(f"{families.describe(program.config.architecture).head}.weight"))
        for name in self.source.names():
            layer = re.search(r"\.(\d+)\.", name)
            beyond = layer is not None and int(layer[1]) >= program.config.num_layers
            if name not in read and not beyond and not name.endswith(_HARMLESS) and not _OTHER_PARTS.match(name):
                raise ModelError(
                    f"{self.source.where}: tensor {name} does not belong to the architecture its config names",
                    "a quantized layer's: is it of the format that quantization_config in config.json names?"
                    if _OF_QUANTIZED.search(name)
                    else "is the config its own?",
                )

    def _concatenated(self, parts: list[Array]) -> Array:
        """Into memory that is kept: fresh memory for each would double the time."""
        if any(part.dtype != parts[0].dtype for part in parts):
            parts = [arrays.to_float32(part) for part in parts]
        dtype, shape = parts[0].dtype, (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        num_bytes = math.prod(shape) * dtype.itemsize
        if len(self._join_buffer) < num_bytes:
            self._join_buffer = arrays.empty((num_bytes,), np.uint8)
        return np.concatenate(parts, out=self._join_buffer[:num_bytes].view(dtype).reshape(shape))


def expert_name(name: str, expert: int) -> str:
    """Name of the tensor that holds one expert's matrix or vector."""
    return name.format(expert) if "{}" in name else f"{name}.{expert}"


def rows_of_parts(weight: Weight) -> Iterator[tuple[int, int]]:
    """The first row of each of a weight's parts, and the one behind its last, in all of its tensors joined."""
    whole = weight.whole
    starts = dict(zip(whole.names, accumulate((0, *whole.rows)), strict=False))
    for index, name in enumerate(weight.names):
        start = starts[name] + (weight.first_rows[index] if weight.first_rows else 0)
        yield start, start + weight.rows[index]


def check_shape(where: Path | str, name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises ModelError unless the tensor is of that shape."""
    if tuple(found) != shape:
        raise ModelError(
            f"{where}: tensor {name} has shape {list(found)}, the config asks for {list(shape)}",
            "config.json and weights belong to different models",
        )


def check_tensor(where: Path | str, name: str, tensor: Array, shape: tuple[int, ...]) -> Array:
    """`tensor` when it has the shape and a type that can be packed, else ModelError."""
    check_shape(where, name, tensor.shape, shape)
    if name_of(tensor.dtype) not in ("float32", "float16", "bfloat16"):
        raise unsupported_type(where, name, str(tensor.dtype))
    return tensor if tensor.flags.aligned else tensor.copy()  # a view of a file whose header is of any length


def unsupported_type(where: Path | str, name: str, dtype: str) -> ModelError:
    """The error for a tensor whose type no weight is read from."""
    return ModelError(
        f"{where}: tensor {name} has type {dtype}", "supported: float32, float16, bfloat16, and quantized GGUF files"
    )


def missing_tensor(where: Path | str, name: str) -> ModelError:
    """The error for a tensor that the checkpoint does not have."""
    return ModelError(f"{where}: no tensor {name}", "is the file complete, and of the architecture its config names?")


def stored_name(names: Container[str], name: str) -> str | None:
    """The name under which `name` is stored: models saved without their LM head lack the first part of it ("model."); those
    inside a model of several kinds of input have a part more."""
    first, _, bare = name.partition(".")
    tried = (name, bare, f"language_model.{name}", f"{first}.language_model.{bare}")
    return next((each for each in tried if each in names), None)


class MappedFile:
    """`path` in memory as far as it is being read, mapped copy-on-write: copied to a GPU, read-only views make torch warn."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def __len__(self) -> int:
        return len(self._map)

    def bytes(self, start: int, end: int) -> bytes:
        """A copy of bytes start .. end."""
        return self._map[start:end]

    def view(self, start: int, end: int) -> Array:
        """Bytes start .. end as an array of uint8, without a copy; start < end <= len(self)."""
        return np.frombuffer(self._map, dtype=np.uint8, count=end - start, offset=start)

    def release(self) -> None:
        """Release the pages read so far, which would else stay in memory beside the packed weights. Views stay valid."""
        self._map.madvise(mmap.MADV_DONTNEED)
