"""The columns of a Parquet file as the rest of jobs takes them: no view types, no text that is not UTF-8."""

import itertools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import types

from pagecli.jobs.rows.arrow_digest import value_bytes


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
