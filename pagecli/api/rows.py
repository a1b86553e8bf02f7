"""Rows that a program holds, as an input of a job: mappings, texts, Arrow tables and what gives itself as one (data frames)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from pagecli.api.values import TooDeepError, plain
from pagecli.errors import ErrorCode, UsageError
from pagecli.jobs.readers.parquet_reader import as_schema, plain_schema, with_valid_text
from pagecli.jobs.rows.arrow_values import ArrowColumns, to_python
from pagecli.jobs.rows.row import TOO_DEEP, InputRow, InputSource, RowEstimate

BATCH_ROWS = 256  # a row held for its turn keeps its whole batch in memory


def source_of(rows: Any, limit: int | None = None) -> InputSource:
    """The rows as an input, read as far as they are needed. Raises UsageError for what is no rows."""
    kind = type(rows).__name__
    try:
        if hasattr(rows, "__arrow_c_stream__"):
            return ArrowRows(pa.RecordBatchReader.from_stream(rows), limit)
        if hasattr(rows, "__arrow_c_array__"):
            batch = pa.record_batch(rows)
            return ArrowRows(pa.RecordBatchReader.from_batches(batch.schema, [batch]), limit)
    except (pa.ArrowException, TypeError) as error:
        values = _column_alone(rows)
        if values is None:
            reason = ": ".join(map(str, reversed(error.args)))
            hint = "give each column one type, or give dicts, as frame.to_dict('records') makes them"
            raise UsageError(f"rows of type {kind} are no Arrow table: {reason}", hint) from error
        return MemoryRows(values, limit)
    if isinstance(rows, Mapping | bytes) or not isinstance(rows, Iterable):
        hint = "give an iterable of dicts or texts, an Arrow table, a data frame, or a path"
        raise UsageError(f"rows are of type {kind}", hint)
    return MemoryRows(rows, limit)


def _column_alone(rows: Any) -> Iterable[Any] | None:
    """The values of a series or of an Arrow array; None of what is neither."""
    try:
        column = pa.chunked_array(rows if hasattr(rows, "__arrow_c_stream__") else [pa.array(rows)])
    except (pa.ArrowException, TypeError):
        return None
    return (to_python(value) for value in column)


class _Rows:
    """What sources in memory share."""

    name = "rows"
    schema: pa.Schema | None = None
    column_names: list[str] | None = None

    def estimate(self) -> RowEstimate | None:
        return None

    def check_unchanged(self) -> None:
        """Rows in memory are as they were given."""

    def interrupt(self) -> None:
        """Nothing waits but what the caller's own iterator waits for."""

    def close(self) -> None:
        """Nothing is held open."""


class MemoryRows(_Rows):
    """An iterable, iterated once, by the job's reading thread; a text is the prompt of a row."""

    def __init__(self, rows: Iterable[Any], limit: int | None = None) -> None:
        self._rows = iter(rows)
        self._limit = limit

    def __iter__(self) -> Iterator[InputRow]:
        index = 0
        while self._limit is None or index < self._limit:
            try:
                row = next(self._rows)
            except StopIteration:
                return
            yield _input_row(index, row)
            index += 1


def _input_row(index: int, given: Any) -> InputRow:
    try:
        row = plain(given)
    except TooDeepError:
        return InputRow(index, {}, error=f"row {index}: {TOO_DEEP}", error_code=ErrorCode.ROW_TOO_LARGE)
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
        what = "a dict with names that are no text" if isinstance(row, dict) else f"{type(given).__name__}, no dict or text"
        return InputRow(index, {}, error=f"row {index}: {what}", error_code=ErrorCode.INVALID_TYPE)
    num_bytes = 100 + sum(len(value) for value in row.values() if isinstance(value, str | bytes))
    return InputRow(index, row, num_bytes=num_bytes)


class ArrowRows(_Rows):
    """The rows of a stream of record batches; columns stay Arrow until a value is read."""

    def __init__(self, reader: pa.RecordBatchReader, limit: int | None = None) -> None:
        names = reader.schema.names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise UsageError(f"rows have more than one column named {repeated[0]!r}", "rename one of them")
        self._reader = reader
        self._limit = limit
        self._plain = plain_schema(reader.schema)
        self.schema = self._plain
        self.column_names = names

    def __iter__(self) -> Iterator[InputRow]:
        index = 0
        for whole in self._reader:
            for start in range(0, whole.num_rows, BATCH_ROWS):
                batch, wrong = with_valid_text(as_schema(whole.slice(start, BATCH_ROWS), self._plain, {}))
                row_bytes = batch.nbytes // max(1, batch.num_rows)
                for offset in range(batch.num_rows):
                    if self._limit is not None and index >= self._limit:
                        return
                    error = f"row {index}: invalid UTF-8 in column {wrong[offset]}" if offset in wrong else None
                    code = None if error is None else ErrorCode.INVALID_ENCODING
                    yield InputRow(index, ArrowColumns(batch, offset), error=error, num_bytes=row_bytes, error_code=code)
                    index += 1
