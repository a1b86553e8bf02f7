"""Quantized matrices as every format's reader gives them: integers and, for groups of columns, a scale and an offset."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pagecli.core.arrays import Array

Offset = Literal["none", "zero", "low"]
INTEGERS = tuple(float(n) for n in range(16))  # the table of formats that count from 0


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """matrix[N, K] = scale * (table[q] - zero), or scale * table[q] + low; of 8 bits q stands for itself.

    q[N, K]: uint8 in [0, 16) of 4 bits, or int8. scale and offset[N, K / group]: float16. In float32 every step is exact but
    the last addition.
    """

    q: Array
    scale: Array
    offset: Array | None = None  # zero or low
    kind: Offset = "none"
    table: tuple[float, ...] = INTEGERS

    @property
    def bits(self) -> int:
        return 4 if self.q.dtype == np.uint8 else 8

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.q.shape[1] // self.scale.shape[1]

    def rows(self, index: Array) -> "QuantizedTensor":
        """The matrix of these rows, in this order."""
        offset = None if self.offset is None else self.offset[index]
        return replace(self, q=self.q[index], scale=self.scale[index], offset=offset)

    def columns(self, first: int, last: int) -> "QuantizedTensor | None":
        """The matrix of the columns first .. last; None where they are not whole groups."""
        if first % self.group or last % self.group:
            return None
        groups = slice(first // self.group, last // self.group)
        offset = None if self.offset is None else self.offset[:, groups]
        return replace(self, q=self.q[:, first:last], scale=self.scale[:, groups], offset=offset)

    def with_groups(self, group: int) -> "QuantizedTensor":
        """The same matrix with smaller groups, their scales as often."""
        times = self.group // group
        offset = None if self.offset is None else np.repeat(self.offset, times, axis=1)
        return replace(self, scale=np.repeat(self.scale, times, axis=1), offset=offset)

    def dequantized(self) -> Array:
        """[N, K] float32."""
        values = np.array(self.table, np.float32)[self.q] if self.bits == 4 else self.q.astype(np.float32)
        scale = np.repeat(self.scale.astype(np.float32), self.group, axis=1)
        if self.offset is None:
            return np.asarray(scale * values)
        offset = np.repeat(self.offset.astype(np.float32), self.group, axis=1)
        return np.asarray(scale * (values - offset) if self.kind == "zero" else scale * values + offset)


def joined(parts: list[QuantizedTensor]) -> QuantizedTensor | None:
    """The parts' rows one below the other; None where they are not of one format."""
    if len(parts) == 1:
        return parts[0]
    if len({(part.bits, part.group, part.kind, part.table) for part in parts}) > 1:
        return None
    offsets = [part.offset for part in parts if part.offset is not None]
    return replace(
        parts[0],
        q=np.concatenate([part.q for part in parts]),
        scale=np.concatenate([part.scale for part in parts]),
        offset=np.concatenate(offsets) if offsets else None,
    )


class QuantizedSource(ABC):
    """A source of weights (weights/source.py) that has some of them quantized."""

    @abstractmethod
    def read(self, name: str, shape: tuple[int, ...]) -> Array: ...

    @abstractmethod
    def read_expert(self, name: str, expert: int, shape: tuple[int, ...]) -> Array:
        """One expert's part of a tensor of `shape`, whose first dimension is the experts', checked as `read` checks."""

    @abstractmethod
    def read_quantized(self, name: str, shape: tuple[int, ...], expert: int | None = None) -> QuantizedTensor | None:
        """Tensor `name` of `shape`, or one expert's part of it, as it is stored; None where it is not quantized, in no way that
        is known, or not of that shape, which `read` refuses."""
