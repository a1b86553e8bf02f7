"""Quantized matrices as every format's reader gives them: integers and, for groups of columns, a scale and an offset."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from pagecli.core.arrays import Array

Offset = Literal["none", "zero", "low"]
INTEGERS = tuple(float(n) for n in range(16))  # the table of formats that count from 0
ROWS_AT_ONCE = 1024  # of a stored tensor, taken apart together: whole panels, and not much memory


def _e4m3() -> Array:
    """The values of float8 e4m3fn: a sign, 4 bits of exponent (bias 7), 3 bits of fraction; all ones: NaN, no infinities."""
    code = np.arange(128)
    exponent, fraction = code >> 3, (code & 7).astype(np.float32)
    positive = np.where(exponent == 0, np.ldexp(fraction, -9), np.ldexp(8 + fraction, exponent - 10)).astype(np.float32)
    positive[127] = np.nan
    return np.concatenate([positive, -positive])


E4M3 = _e4m3()


@dataclass(frozen=True, slots=True)
class QuantizedFormat:
    """What a matrix's numbers stand for.

    weight = scale * (q - zero), or scale * q + low; q is table[n] of 4 bits, n - center of 2, 3, 5 and 6, n of 8 (with sign).
    Of float8 q are codes of e4m3, none of them NaN.
    Scale, zero and low are float16, of a group of columns; scales that are alone may be float32 (`wide`). Where `part`
    columns of it have factors of their own (8 bits, with sign), scale and low are times those. In float32 every step is
    exact but the last addition, or a product with a wide scale.
    """

    bits: int = 4
    group: int = 32
    kind: Offset = "none"
    part: int = 0
    center: int = 0
    table: tuple[float, ...] = INTEGERS
    float8: bool = False
    wide: bool = False

    @property
    def bits_each(self) -> float:
        """Bits of a number in memory, scales and factors included."""
        each = 1 if self.kind == "none" else 2
        return self.bits + each * ((32 if self.wide else 16) / self.group + (8 / self.part if self.part else 0))

    @property
    def has_even_steps(self) -> bool:
        """Whether numbers are whole bytes, or halves of one that count in equal steps: no other is read as fast (see
        core/engine_config.py)."""
        return self.bits == 8 or (self.bits == 4 and len(set(np.diff(self.table))) == 1)


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """matrix[N, K] of one format. q[N, K]: uint8, or int8 of 8 bits. scale and offset (zero or low)[N, K / group]: float16.
    factor and offset_factor[N, K / part]: int8."""

    format: QuantizedFormat
    q: Array
    scale: Array
    offset: Array | None = None
    factor: Array | None = None
    offset_factor: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.q.shape[0], self.q.shape[1]

    @property
    def arrays(self) -> dict[str, Array]:
        """Those that there are, by field, each [N, K / columns that share a number]."""
        found = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return {name: array for name, array in found.items() if array is not None}

    def _with(self, arrays: dict[str, Array]) -> "QuantizedTensor":
        return QuantizedTensor(self.format, **arrays)

    def sections(self) -> "list[QuantizedTensor]":
        """The matrix's rows by format, one below the other."""
        return [self]

    def chunks(self) -> "Iterator[QuantizedTensor]":
        """A section's rows, one below the other."""
        yield self

    def rows(self, index: Array | slice) -> "QuantizedTensor":
        """The matrix of these rows, in this order."""
        return self._with({name: array[index] for name, array in self.arrays.items()})

    def columns(self, first: int, last: int) -> "QuantizedTensor | None":
        """The matrix of the columns first .. last; None where they are not whole groups."""
        if first % self.format.group or last % self.format.group:
            return None
        cols = self.q.shape[1]
        cut = {
            name: array[:, first * array.shape[1] // cols : last * array.shape[1] // cols]
            for name, array in self.arrays.items()
        }
        return self._with(cut)

    def with_groups(self, group: int) -> "QuantizedTensor":
        """The same matrix with smaller groups, their scales as often."""
        times = self.format.group // group
        scales = {name: np.repeat(self.arrays[name], times, axis=1) for name in ("scale", "offset") if name in self.arrays}
        return replace(self, format=replace(self.format, group=group), **scales)

    def dequantized(self) -> Array:
        """[N, K] float32."""
        wanted = self.format
        wide = {name: _widened(array, self.q.shape[1]) for name, array in self.arrays.items() if name != "q"}
        if wanted.float8:
            values = E4M3[self.q]
        elif wanted.bits == 4:
            values = np.array(wanted.table, np.float32)[self.q]
        else:
            values = self.q.astype(np.float32) - np.float32(wanted.center)
        scale = wide["scale"] * wide.get("factor", np.float32(1))
        if wanted.kind == "none":
            return np.asarray(scale * values)
        if wanted.kind == "zero":
            return np.asarray(scale * (values - wide["offset"]))
        return np.asarray(scale * values + wide["offset"] * wide.get("offset_factor", np.float32(1)))


def in_groups(
    q: Array, scale: Array, offset: Array | None = None, kind: Offset = "none", table: tuple[float, ...] = INTEGERS
) -> QuantizedTensor:
    """The matrix of numbers of 4 bits (uint8) or 8 (int8), with as many groups as scale[N, groups] has."""
    bits = 4 if q.dtype == np.uint8 else 8
    return QuantizedTensor(QuantizedFormat(bits, q.shape[1] // scale.shape[1], kind, table=table), q, scale, offset)


def _widened(array: Array, num_cols: int) -> Array:
    """[N, K] float32 of one number for some columns each."""
    return np.asarray(np.repeat(array.astype(np.float32), num_cols // array.shape[1], axis=1))


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows[N, bytes] of one format as a file has them."""

    data: Array
    format: QuantizedFormat
    num_cols: int
    take_apart: Callable[[Array], QuantizedTensor]
    release: Callable[[], None]  # frees the memory of what was read of the file


class StoredMatrix:
    """A matrix of stored rows, which may be of several formats, taken apart some at a time: memory for all of its numbers,
    a byte each, is never needed."""

    def __init__(
        self, parts: list[StoredRows], index: Array | None = None, first_column: int = 0, last_column: int = 0
    ) -> None:
        """`index`: the matrix's rows among those of all parts."""
        self.parts = parts
        self.shape = (
            (sum(map(len, (part.data for part in parts))) if index is None else len(index)),
            ((last_column or parts[0].num_cols) - first_column),
        )
        self._index = np.arange(self.shape[0]) if index is None else index
        self._columns = first_column, first_column + self.shape[1]

    @property
    def format(self) -> QuantizedFormat:
        """Of a section."""
        return self.parts[self._part_of(self._index[:1])[0]].format

    def _part_of(self, index: Array) -> Array:
        ends = np.cumsum([len(part.data) for part in self.parts])
        return np.asarray(np.searchsorted(ends, index, side="right"))

    def _of_rows(self, index: Array) -> "StoredMatrix":
        return StoredMatrix(self.parts, index, *self._columns)

    def sections(self) -> "list[StoredMatrix]":
        """As QuantizedTensor's."""
        formats = [part.format for part in self.parts]
        kinds = np.array([formats.index(found) for found in formats])[self._part_of(self._index)]
        return [self._of_rows(run) for run in np.split(self._index, np.flatnonzero(np.diff(kinds)) + 1)]

    def rows(self, index: Array) -> "StoredMatrix":
        """As QuantizedTensor's."""
        return self._of_rows(self._index[index])

    def columns(self, first: int, last: int) -> "StoredMatrix | None":
        """As QuantizedTensor's."""
        if any(first % part.format.group or last % part.format.group for part in self.parts):
            return None
        return StoredMatrix(self.parts, self._index, first, last)

    def chunks(self) -> Iterator[QuantizedTensor]:
        """As QuantizedTensor's: ROWS_AT_ONCE at a time."""
        starts = np.cumsum([0, *(len(part.data) for part in self.parts)])
        for first in range(0, len(self._index), ROWS_AT_ONCE):
            index = self._index[first : first + ROWS_AT_ONCE]
            owners = self._part_of(index)
            found = []
            for run in np.split(np.arange(len(index)), np.flatnonzero(np.diff(owners)) + 1):
                number = owners[run[0]]
                part = self.parts[number]
                found.append(part.take_apart(part.data[index[run] - starts[number]]).columns(*self._columns))
            tensor = joined([each for each in found if each is not None])
            assert isinstance(tensor, QuantizedTensor)
            yield tensor
            self.parts[owners[0]].release()

    def dequantized(self) -> Array:
        """[N, K] float32."""
        return np.concatenate([chunk.dequantized() for section in self.sections() for chunk in section.chunks()])


AnyQuantized = QuantizedTensor | StoredMatrix


def joined(parts: Sequence[AnyQuantized]) -> AnyQuantized | None:
    """The parts' rows one below the other; None where they are not of one format, but for stored ones."""
    if len(parts) == 1:
        return parts[0]
    stored = [part for part in parts if isinstance(part, StoredMatrix)]
    if len(stored) == len(parts):
        return StoredMatrix([rows for part in stored for rows in part.parts])
    tensors = [part for part in parts if isinstance(part, QuantizedTensor)]
    if len(tensors) < len(parts) or len({part.format for part in tensors}) > 1:
        return None
    names = tensors[0].arrays
    return QuantizedTensor(
        tensors[0].format, **{name: np.concatenate([part.arrays[name] for part in tensors]) for name in names}
    )


class QuantizedSource(ABC):
    """A source of weights (weights/reader.py) that has some of them quantized."""

    @abstractmethod
    def read(self, name: str, shape: tuple[int, ...]) -> Array: ...

    @abstractmethod
    def read_expert(self, name: str, expert: int, shape: tuple[int, ...]) -> Array:
        """One expert's part of a tensor of `shape`, whose first dimension is the experts', checked as `read` checks."""

    @abstractmethod
    def read_quantized(self, name: str, shape: tuple[int, ...], expert: int | None = None) -> AnyQuantized | None:
        """Tensor `name` of `shape`, or one expert's part of it, as it is stored; None where it is not quantized, in no way that
        is known, or not of that shape, which `read` refuses."""
