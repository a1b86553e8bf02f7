"""One row of the input, whatever its format: its columns, or why it could not be read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class InputRow:
    """`index` counts rows from 0 (blank lines are no rows); `line` counts lines from 1 and is None in Parquet."""

    index: int
    columns: Mapping[str, Any]
    line: int | None = None
    error: str | None = None  # set: the row could not be read, and `columns` is empty or incomplete
    num_bytes: int = 0  # about what the row takes in memory, for bounding buffers

    @property
    def place(self) -> str:
        return f"line {self.line}" if self.line is not None else f"row {self.index}"


@dataclass(frozen=True, slots=True)
class RowEstimate:
    """How many rows the input will have yielded at its end; `exact` is false when guessed from bytes read so far."""

    num_rows: int
    exact: bool


class InputSource(Protocol):
    """An opened input. Iterated once, by one thread; `interrupt` and `estimate` may be called from another."""

    name: str
    schema: pa.Schema | None  # the columns' Arrow types where the format has them

    def __iter__(self) -> Iterator[InputRow]: ...

    def estimate(self) -> RowEstimate | None:
        """None while nothing is known, as for a pipe."""
        ...

    def interrupt(self) -> None:
        """Makes a read that waits for a pipe return, so that the reading thread can end."""
        ...

    def close(self) -> None: ...
