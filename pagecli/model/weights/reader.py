"""Reads a model's weights one after the other, keeps count of them, and joins those that are used as one."""

import math
from collections.abc import Sequence

import numpy as np

from pagecli.core import arrays
from pagecli.core.arrays import Array
from pagecli.model.weights import WeightSource


class WeightReader:
    """What the loaders for the CPU and for a GPU share."""

    def __init__(self, source: WeightSource) -> None:
        self.source = source
        self.num_bytes = 0  # of everything loaded so far
        self._read: set[str] = set()
        self._join_buffer = arrays.empty((0,), np.uint8)

    def joined(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Array:
        """Tensors `names`, of `shapes`, joined: a view of the file, or of memory that the next call reuses."""
        self._read.update(names)
        parts = [self.source.read(name, shape) for name, shape in zip(names, shapes, strict=True)]
        return parts[0] if len(parts) == 1 else self._concatenated(parts)

    def unread(self) -> list[str]:
        """Tensors of the checkpoint that nobody asked for."""
        return [name for name in self.source.names() if name not in self._read and f"model.{name}" not in self._read]

    def _concatenated(self, parts: list[Array]) -> Array:
        """Into memory that is kept: fresh memory for each would double the time."""
        if any(part.dtype != parts[0].dtype for part in parts):
            parts = [arrays.to_float32(part) for part in parts]
        dtype, shape = parts[0].dtype, (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        num_bytes = math.prod(shape) * dtype.itemsize
        if len(self._join_buffer) < num_bytes:
            self._join_buffer = arrays.empty((num_bytes,), np.uint8)
        return np.concatenate(parts, out=self._join_buffer[:num_bytes].view(dtype).reshape(shape))
