"""Parquet input, streamed in small record batches; columns stay Arrow until a value is read."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.errors import ErrorCode, InputError
from pagecli.jobs.readers.parquet_types import as_schema, has_nested_dictionary, plain_schema, row_sizes, with_valid_text
from pagecli.jobs.readers.text_input import MAX_ROW_BYTES, row_too_large
from pagecli.jobs.rows.arrow_values import ArrowColumns
from pagecli.jobs.rows.input_row import InputRow, RowEstimate
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.byte_streams import unreadable
from pagecli.jobs.storage.file_version import FileVersion

BATCH_ROWS = 256  # a row held for its turn keeps its whole batch in memory
BATCH_BYTES = 32 << 20  # batches of large rows are made smaller, to take about so much


class ParquetSource:
    """Opens at once, so that a missing or damaged file is found before anything slow. Raises InputError.

    `schema`: what the rows are to have; None: the file's own. Columns that the file lacks have their value in `constants`, or
    are null.
    """

    def __init__(
        self,
        path: str,
        limit: int | None = None,
        schema: pa.Schema | None = None,
        constants: Mapping[str, Any] | None = None,
        max_row_bytes: int = MAX_ROW_BYTES,
    ) -> None:
        self._constants = constants or {}
        self._max_row_bytes = max_row_bytes
        self.name = remote_files.shown(path)
        self._limit = limit
        self._path = remote_files.local(path)
        self._version = FileVersion.of_input(path)
        self._file = open_parquet(path)
        self._schema = schema if schema is not None else plain_schema(self._file.schema_arrow)
        self.schema: pa.Schema | None = self._schema
        self.column_names: list[str] | None = self._file.schema_arrow.names
        names = self.column_names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            self._file.close()
            raise InputError(f"{self.name} has more than one column named {repeated[0]!r}", "rename one of them")

    @property
    def num_rows(self) -> int:
        return self._file.metadata.num_rows

    def __iter__(self) -> Iterator[InputRow]:
        index = 0
        batches = self._batches()
        while self._limit is None or index < self._limit:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                batch, wrong_texts = with_valid_text(as_schema(batch, self._schema, self._constants))
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{self.name} cannot be read after row {index}: {_one_line(error)}") from error
            num_rows = batch.num_rows if self._limit is None else min(batch.num_rows, self._limit - index)
            row_bytes = batch.nbytes // max(batch.num_rows, 1)
            too_large = row_sizes(batch, self._max_row_bytes) if batch.nbytes > self._max_row_bytes else {}
            for offset in range(num_rows):
                row = InputRow(index, ArrowColumns(batch, offset), num_bytes=too_large.get(offset, row_bytes))
                if offset in wrong_texts:
                    problem = f"row {index}: invalid UTF-8 in column {wrong_texts[offset]}"
                    row = dataclasses.replace(row, error=problem, error_code=ErrorCode.INVALID_ENCODING)
                if offset in too_large:
                    problem = f"row {index}: {row_too_large(too_large[offset], self._max_row_bytes)}"
                    row = dataclasses.replace(row, error=problem, error_code=ErrorCode.ROW_TOO_LARGE)
                yield row
                index += 1

    def _batches(self) -> Iterator[pa.RecordBatch]:
        size, num_groups = self._batch_rows(), self._file.metadata.num_row_groups
        # Arrow 26 cannot put together dictionaries inside of nested columns out of several row groups.
        parts = [[number] for number in range(num_groups)] if has_nested_dictionary(self._file.schema_arrow) else [None]
        for part in parts:
            yield from self._file.iter_batches(batch_size=size, row_groups=part, use_threads=False)

    def _batch_rows(self) -> int:
        metadata = self._file.metadata
        total = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        row_bytes = max(1, total // max(1, metadata.num_rows))
        return max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))

    def estimate(self) -> RowEstimate | None:
        return RowEstimate(self.num_rows if self._limit is None else min(self.num_rows, self._limit), exact=True)

    def check_unchanged(self) -> None:
        if self._version is not None:
            self._version.check(self._path)

    def interrupt(self) -> None:
        """A file never keeps its reader waiting."""

    def close(self) -> None:
        self._file.close(force=True)


def open_parquet(path: str) -> pq.ParquetFile:
    """The file with its footer read. Raises InputError."""
    where: Any = remote_files.open_for_reading(path) if remote_files.is_remote(path) else remote_files.local(path)
    try:
        return pq.ParquetFile(where, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, ValueError) as error:
        name = remote_files.shown(path)
        raise InputError(f"{name} is not a readable Parquet file: {_one_line(error)}", "it may be cut short") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _one_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
