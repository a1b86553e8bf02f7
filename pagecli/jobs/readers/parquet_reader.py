"""Parquet input, streamed in small record batches; columns stay Arrow until a value is read.

Columns have no view types and no text that is not UTF-8.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from pagecli.core import file_targets
from pagecli.errors import ErrorCode, InputError, first_line
from pagecli.jobs.readers.text_input import MAX_ROW_BYTES, FileVersion, row_too_large, unreadable
from pagecli.jobs.rows.arrow_values import ArrowColumns, value_bytes
from pagecli.jobs.rows.row import InputRow, RowEstimate
from pagecli.jobs.storage import remote_files


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with string, binary and list views as plain strings, binary and lists.

    A view is a layout in memory that a file may ask for; Parquet has no views, and Arrow 26 can neither take from nor slice
    all of them.
    """
    return pa.schema([field.with_type(_plain(field.type)) for field in schema], schema.metadata)


def _plain(kind: pa.DataType) -> pa.DataType:
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(kind.key_field.with_type(_plain(kind.key_type)), kind.item_field.with_type(_plain(kind.item_type)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)), kind.list_size)
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _plain(kind.value_type), kind.ordered)
    return kind


def has_nested_dictionary(schema: pa.Schema) -> bool:
    """Whether a dictionary is inside of a column, and not the column."""
    return any(_has_dictionary(kind.field(number).type) for kind in schema.types for number in range(kind.num_fields))


def _has_dictionary(kind: pa.DataType) -> bool:
    return types.is_dictionary(kind) or any(_has_dictionary(kind.field(number).type) for number in range(kind.num_fields))


def row_sizes(batch: pa.RecordBatch, more_than: int) -> dict[int, int]:
    """(row: bytes) of the rows that have more bytes than `more_than`; an entry of a dictionary counts where it is used."""
    arrays = [column.dictionary_decode() if types.is_dictionary(column.type) else column for column in batch.columns]
    sizes = (sum(array.slice(row, 1).nbytes for array in arrays) for row in range(batch.num_rows))
    return {row: size for row, size in enumerate(sizes) if size > more_than}


def as_schema(batch: pa.RecordBatch, schema: pa.Schema, constants: Mapping[str, Any]) -> pa.RecordBatch:
    """The batch with the columns of `schema`, which is plain; or else the constant or null. Raises ArrowException."""
    arrays = []
    for field in schema:
        position = batch.schema.get_field_index(field.name)
        if position < 0:
            arrays.append(pa.array([constants.get(field.name)] * batch.num_rows).cast(field.type))
            continue
        column = batch.column(position)
        if column.type != field.type:
            plain = _plain(column.type)
            column = (column if column.type == plain else _rebuilt(column)).cast(field.type)
        arrays.append(column)
    return pa.record_batch(arrays, schema=schema)


def with_valid_text(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[int, str]]:
    """The batch with U+FFFD for bytes that are no UTF-8, and (row: column) of those that had some.

    Nothing checks texts while a file is written or read; a strict reader refuses the whole file that they are carried to.
    """
    arrays: list[pa.Array] = []
    wrong: dict[int, str] = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            before, column = column, _rebuilt(column)
            for row in range(len(column)):
                if b"".join(value_bytes(before, row)) != b"".join(value_bytes(column, row)):
                    wrong.setdefault(row, field.name)
        arrays.append(column)
    return (pa.record_batch(arrays, schema=batch.schema), wrong) if wrong else (batch, wrong)


def _rebuilt(array: pa.Array) -> pa.Array:
    """The array in its plain type, all its texts UTF-8. (Arrow has no cast of some views and a broken one of list views.)"""
    kind, plain = array.type, _plain(array.type)
    if types.is_string(plain) or types.is_large_string(plain):
        texts = [value.as_buffer().to_pybytes().decode("utf-8", "replace") if value.is_valid else None for value in array]
        return pa.array(texts, plain)
    if types.is_struct(kind):
        children = [_rebuilt(array.field(position)) for position in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(plain), mask=array.is_null())
    if types.is_fixed_size_list(kind):
        values = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(_rebuilt(values), type=plain, mask=array.is_null())
    if types.is_map(kind):
        offsets = pa.array(array.offsets.to_pylist(), pa.int32())  # a mask goes with no slice of offsets
        keys, items = _rebuilt(array.keys), _rebuilt(array.items)
        return pa.MapArray.from_arrays(offsets, keys, items, type=plain, mask=array.is_null())
    if types.is_list(plain) or types.is_large_list(plain):
        lengths = [len(value.values) if value.is_valid else 0 for value in array]
        offsets = pa.array(itertools.accumulate(lengths, initial=0), pa.int32() if types.is_list(plain) else pa.int64())
        made_by = pa.ListArray if types.is_list(plain) else pa.LargeListArray
        return made_by.from_arrays(offsets, _rebuilt(array.flatten()), type=plain, mask=array.is_null())
    if types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(array.indices, _rebuilt(array.dictionary), ordered=kind.ordered)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _rebuilt(array.storage))
    return array.cast(plain)


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
        self.name = file_targets.shown(path)
        self._limit = limit
        self._path = file_targets.local(path)
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
                raise InputError(f"{self.name} cannot be read after row {index}: {first_line(error)}") from error
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
    where: Any = remote_files.open_for_reading(path) if file_targets.is_remote(path) else file_targets.local(path)
    try:
        return pq.ParquetFile(where, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, ValueError) as error:
        name = file_targets.shown(path)
        raise InputError(f"{name} is not a readable Parquet file: {first_line(error)}", "it may be cut short") from error
    except OSError as error:
        raise unreadable(path, error) from error
