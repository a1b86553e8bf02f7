"""Checks before the model is loaded that the first rows of an input have a prompt in the column that the flags name."""

import itertools
from collections import deque
from collections.abc import Iterator

from pagecli.errors import InputError
from pagecli.jobs.rows.input_row import InputRow, InputSource, RowEstimate

MAX_ROWS, MAX_BYTES = 100, 8 << 20  # looked at, if none of them has a prompt
SHOWN_COLUMNS = 12


class CheckedPrompts:
    """A source whose rows are to have one of the columns `names`, or `all_of` them. Raises InputError if neither the header
    nor a first row has.

    A file is looked at when it is opened; a stream, which may begin late, when its rows are taken. Rows that cannot be read and
    those of batch files say themselves what is wrong.
    """

    def __init__(self, source: InputSource, names: tuple[str, ...], is_stream: bool, all_of: bool = False) -> None:
        self._source = source
        self._names = names
        self._enough = all if all_of else any
        self._hint = "--template needs it; write {{ name | default('...') }} where it may be missing"
        if not all_of:
            self._hint = "name the column of the prompts with --prompt-column"
        self.name = source.name
        self.schema = source.schema
        self.column_names = source.column_names
        self._rows: Iterator[InputRow] = iter(source)
        self._seen: deque[InputRow] = deque()
        if source.column_names is not None:
            self._check(source.column_names)
        elif not is_stream:
            self._read_first()

    def _read_first(self) -> None:
        """Reads until a row has what its prompt needs."""
        columns: dict[str, None] = {}
        num_bytes = 0
        for row in itertools.islice(self._rows, MAX_ROWS):
            self._seen.append(row)
            if row.batch_url is not None or (row.error is None and self._enough(name in row.columns for name in self._names)):
                return
            columns.update(dict.fromkeys(row.columns))
            num_bytes += row.num_bytes
            if num_bytes > MAX_BYTES:
                break
        if any(row.error is None for row in self._seen):
            self._check(list(columns))

    def _check(self, found: list[str]) -> None:
        if not self._enough(name in found for name in self._names):
            missing = ", ".join(name for name in self._names if name not in found)
            more = ", ..." if len(found) > SHOWN_COLUMNS else ""
            shown = ", ".join(found[:SHOWN_COLUMNS]) + more if found else "no columns"
            raise InputError(
                f"{self.name} has no column {missing}; it has {shown}",
                self._hint,
            )

    def __iter__(self) -> Iterator[InputRow]:
        if self.column_names is None and not self._seen:
            self._read_first()
        while self._seen:
            yield self._seen.popleft()
        yield from self._rows

    def estimate(self) -> RowEstimate | None:
        return self._source.estimate()

    def check_unchanged(self) -> None:
        self._source.check_unchanged()

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()
