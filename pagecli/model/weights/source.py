"""Sources of a model's weights: their one interface, the checks of a tensor, and the mapped file that they read from.

A source gives tensors one at a time, by the names transformers uses, whatever the file calls them, as views of the mapped file
where it can.
"""

import mmap
from collections.abc import Container
from pathlib import Path
from typing import Protocol

import numpy as np

from pagecli.core.arrays import Array, name_of
from pagecli.errors import ModelError


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
    return ModelError(
        f"{where}: tensor {name} has type {dtype}", "supported: float32, float16, bfloat16, and quantized GGUF files"
    )


def missing_tensor(where: Path | str, name: str) -> ModelError:
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
        return self._map[start:end]

    def view(self, start: int, end: int) -> Array:
        """Bytes start .. end as an array of uint8, without a copy; start < end <= len(self)."""
        return np.frombuffer(self._map, dtype=np.uint8, count=end - start, offset=start)

    def release(self) -> None:
        """Release the pages read so far, which would else stay in memory beside the packed weights. Views stay valid."""
        self._map.madvise(mmap.MADV_DONTNEED)
