"""The bytes of a row that lies in Arrow, for digests: taken from Arrow's buffers, so that every value of every type has some.

They depend on types and values alone: not on how rows are cut into batches, on what lies under nulls, or on the order of a
dictionary. Each value says whether it is null, texts and lists begin with their length: two rows never have the same bytes.
"""

from collections.abc import Iterator

import pyarrow as pa
from pyarrow import lib, types

Bytes = bytes | memoryview  # or a buffer of Arrow's
NULL, VALID, NO_NULLS = b"\0", b"\1", b"\2"
_TEXTS = {lib.Type_STRING, lib.Type_LARGE_STRING, lib.Type_STRING_VIEW}
_TEXTS |= {lib.Type_BINARY, lib.Type_LARGE_BINARY, lib.Type_BINARY_VIEW}
_LISTS = {
    lib.Type_LIST,
    lib.Type_LARGE_LIST,
    lib.Type_FIXED_SIZE_LIST,
    lib.Type_LIST_VIEW,
    lib.Type_LARGE_LIST_VIEW,
    lib.Type_MAP,
}


def row_bytes(batch: pa.RecordBatch, offset: int) -> Iterator[Bytes]:
    """Pieces whose join is of row `offset` of the batch: the names, types and values of its columns."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        yield f"{len(name)} {name} {column.type} ".encode("utf-8", "replace")
        yield from value_bytes(column, offset)


def value_bytes(array: pa.Array, index: int) -> Iterator[Bytes]:
    """Pieces whose join is of one value."""
    kind, value = array.type, array[index]
    if not value.is_valid:
        yield NULL
        return
    yield VALID
    if kind.id in _TEXTS:
        content = value.as_buffer()
        yield content.size.to_bytes(8, "little")
        yield content
    elif kind.id in _LISTS:
        yield len(value.values).to_bytes(8, "little")
        yield from _list_bytes(value.values)
    elif kind.id == lib.Type_STRUCT:
        for position in range(kind.num_fields):
            yield from value_bytes(array.field(position), index)
    elif kind.id == lib.Type_DICTIONARY:
        yield from value_bytes(array.dictionary, value.index.as_py())
    elif isinstance(kind, pa.BaseExtensionType):
        yield from value_bytes(array.storage, index)
    elif _has_fixed_width(kind):
        yield _numbers(array, index, index + 1)
    else:  # truth values; types that no Parquet file has
        yield str(value).encode("utf-8", "replace")


def _list_bytes(items: pa.Array) -> Iterator[Bytes]:
    if _has_fixed_width(items.type) and not items.null_count:
        yield NO_NULLS
        yield _numbers(items, 0, len(items))
        return
    for index in range(len(items)):
        yield from value_bytes(items, index)


def _has_fixed_width(kind: pa.DataType) -> bool:
    is_fixed = types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind)
    return is_fixed and not types.is_boolean(kind)


def _numbers(array: pa.Array, start: int, stop: int) -> memoryview:
    """The values from `start` to `stop` as they lie in memory."""
    width, first = array.type.bit_width // 8, array.offset
    return memoryview(array.buffers()[1])[(first + start) * width : (first + stop) * width]
