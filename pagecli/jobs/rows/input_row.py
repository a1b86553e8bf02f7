"""One row of the input, whatever its format: its columns, or why it could not be read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pagecli.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row. `index` counts the rows of this job from 0; `line` counts lines from 1 (blank ones too), None in Parquet."""

    index: int
    columns: Mapping[str, Any]
    line: int | None = None
    error: str | None = None  # set: the row could not be read, and `columns` is empty or incomplete
    num_bytes: int = 0  # about what the row takes in memory, for bounding buffers
    error_code: ErrorCode | None = None
    source_index: int | None = None  # its number in the whole input, where rows of that were left out; None: `index`
    file: str | None = None  # the file it is in, where the input is several
    batch_url: str | None = None  # of a row of an OpenAI batch file: its url, "" if unknown; None: a plain row

    @property
    def number(self) -> int:
        """Its number in the whole input, from 0: what its id and its random draws are taken from if it has no id."""
        return self.index if self.source_index is None else self.source_index

    @property
    def location(self) -> str:
        location = f"line {self.line}" if self.line is not None else f"row {self.number}"
        return f"{self.file}, {location}" if self.file is not None else location


@dataclass(frozen=True, slots=True)
class RowEstimate:
    """How many rows the input will have yielded at its end; `exact` is false when guessed from bytes read so far."""

    num_rows: int
    exact: bool


class InputSource(Protocol):
    """An opened input. Iterated once, by one thread; `interrupt` and `estimate` may be called from another."""

    name: str
    schema: pa.Schema | None  # the columns' Arrow types where the format has them
    column_names: list[str] | None  # where the format names them before its first row

    def __iter__(self) -> Iterator[InputRow]: ...

    def estimate(self) -> RowEstimate | None:
        """None while nothing is known, as for a pipe."""
        ...

    def check_unchanged(self) -> None:
        """To be called after the last row. Raises InputError if the input was truncated or exchanged while it was read."""
        ...

    def interrupt(self) -> None:
        """Makes a read that waits for a pipe return, so that the reading thread can end."""
        ...

    def close(self) -> None: ...
