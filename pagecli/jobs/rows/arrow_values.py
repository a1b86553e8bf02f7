"""Arrow values as Python and JSON values, and as bytes for digests: of every type and value, in one form for a whole column.

The form follows from the type of a column alone, never from a value: exact decimals, durations in seconds, bytes as base64 in
JSON, maps as lists of pairs, extension types as what they are stored as.

Dates and times are ISO 8601 text, also of years that Python cannot say. A fraction has as many digits as the unit of the type
says (none for seconds, 3, 6, 9), zeros too. Years outside 0 to 9999 have a sign (ISO 8601-1:2019, 4.3.2, expanded
representation). Instants get the offset of their time zone; +00:00 where the zone is not known or the year is outside 1-9999.

The bytes of a row come from the buffers of Arrow. They depend on types and values alone: not on how rows are cut into batches,
on what lies under nulls, or on the order of a dictionary. Each value says whether it is null, texts and lists begin with their
length: two rows never have the same bytes.
"""

import datetime
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pyarrow import lib, types

UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}  # decimal digits of a second
DAY_SECONDS = 86_400
EPOCH_ORDINAL = datetime.date(1970, 1, 1).toordinal()
CYCLE_YEARS, CYCLE_DAYS = 400, 146_097  # after which the Gregorian calendar repeats


def date_text(days: int) -> str:
    """The date `days` after 1970-01-01, in the proleptic Gregorian calendar."""
    cycles, day = divmod(days + EPOCH_ORDINAL - 1, CYCLE_DAYS)
    date = datetime.date.fromordinal(day + 1)
    year = date.year + CYCLE_YEARS * cycles
    shown = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+05d}"
    return f"{shown}-{date.month:02d}-{date.day:02d}"


def time_text(value: int, unit: str) -> str:
    """A time of day; 24 hours and more, and times before midnight, are shown as what they are."""
    digits = UNIT_DIGITS[unit]
    seconds, fraction = divmod(abs(value), 10**digits)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{'-' if value < 0 else ''}{text}{f'.{fraction:0{digits}d}' if digits else ''}"


def timestamp_text(value: int, unit: str, zone: str | None) -> str:
    """`value` units after 1970-01-01T00:00:00, in UTC if there is a zone."""
    per_second = 10 ** UNIT_DIGITS[unit]
    offset = 0 if zone is None else _offset_seconds(value // per_second, zone)
    days, rest = divmod(value + offset * per_second, DAY_SECONDS * per_second)
    text = f"{date_text(days)}T{time_text(rest, unit)}"
    return text if zone is None else text + _offset_text(offset)


def duration_seconds(value: int, unit: str) -> float:
    return value / 10 ** UNIT_DIGITS[unit]


def _offset_seconds(seconds: int, zone: str) -> int:
    """What the zone's clocks are ahead of UTC at `seconds` after 1970."""
    tz = _zone(zone)
    try:
        there = datetime.datetime.fromtimestamp(seconds, tz)
    except (OverflowError, ValueError, OSError):  # outside Python's years
        return 0
    return round((there.utcoffset() or datetime.timedelta()).total_seconds())


@lru_cache(maxsize=64)
def _zone(name: str) -> datetime.tzinfo:
    try:
        zone: datetime.tzinfo = pa.lib.string_to_tzinfo(name)
        return zone
    except Exception:  # an unknown name, or no database of zones on this machine
        return datetime.UTC


def _offset_text(offset: int) -> str:
    hours, rest = divmod(abs(offset), 3600)
    seconds = f":{rest % 60:02d}" if rest % 60 else ""
    return f"{'-' if offset < 0 else '+'}{hours:02d}:{rest // 60:02d}{seconds}"


Convert = Callable[[pa.Scalar], Any]  # of a scalar that is not null
DAY_MILLISECONDS = 86_400_000


class ArrowColumns(Mapping[str, Any]):
    """One row of a record batch as a mapping; values become Python objects only when asked for.

    `batch` and `offset` say where the row lies, so that a Parquet writer can carry its columns without conversion.
    """

    __slots__ = ("batch", "offset")

    def __init__(self, batch: pa.RecordBatch, offset: int) -> None:
        self.batch = batch
        self.offset = offset

    def __getitem__(self, name: str) -> Any:
        position = self.batch.schema.get_field_index(name)
        if position < 0:
            raise KeyError(name)
        return to_python(self.batch.column(position)[self.offset])

    def __iter__(self) -> Iterator[str]:
        return iter(self.batch.schema.names)

    def __len__(self) -> int:
        return self.batch.num_columns

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.batch.schema.get_field_index(name) >= 0


def to_python(scalar: pa.Scalar) -> Any:
    """The scalar as a Python value that JSON can say: None, bool, int, float, str, bytes, Decimal, list, dict. Never raises."""
    return _converter(scalar.type)(scalar) if scalar.is_valid else None


@lru_cache(maxsize=1024)
def _converter(kind: pa.DataType) -> Convert:
    nested = _nested_converter(kind) or _time_converter(kind)
    if nested is not None:
        return nested
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _text
    if types.is_floating(kind):
        return lambda scalar: float(scalar.as_py())
    return _as_python


def _text(scalar: pa.Scalar) -> str:
    try:
        text: str = scalar.as_py()
        return text
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes().decode("utf-8", "replace")


def _as_python(scalar: pa.Scalar) -> Any:
    """Null, truth values, integers, decimals, bytes; of what Python has no value for, Arrow's own text."""
    try:
        return scalar.as_py()
    except (ArithmeticError, ValueError, pa.ArrowNotImplementedError):  # what pyarrow raises for the latter
        return str(scalar)


def _nested_converter(kind: pa.DataType) -> Convert | None:
    if types.is_struct(kind):
        names = [field.name for field in kind]
        return lambda scalar: {name: to_python(scalar[position]) for position, name in enumerate(names)}
    if types.is_map(kind):
        return lambda scalar: [(to_python(pair[0]), to_python(pair[1])) for pair in scalar.values]
    if _is_list(kind):
        return lambda scalar: [to_python(item) for item in scalar.values]
    if types.is_dictionary(kind) or types.is_union(kind):
        return lambda scalar: to_python(scalar.value)
    if isinstance(kind, pa.UuidType):
        return lambda scalar: str(scalar.as_py())
    if isinstance(kind, pa.Bool8Type):
        return _as_python
    if isinstance(kind, pa.BaseExtensionType):
        return lambda scalar: to_python(scalar.value)
    return None


def _is_list(kind: pa.DataType) -> bool:
    is_view = types.is_list_view(kind) or types.is_large_list_view(kind)
    return is_view or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _time_converter(kind: pa.DataType) -> Convert | None:
    if types.is_date32(kind):
        return lambda scalar: date_text(scalar.value)
    if types.is_date64(kind):
        return lambda scalar: date_text(scalar.value // DAY_MILLISECONDS)
    if types.is_time(kind):
        return lambda scalar: time_text(scalar.value, kind.unit)
    if types.is_timestamp(kind):
        return lambda scalar: timestamp_text(scalar.value, kind.unit, kind.tz)
    if types.is_duration(kind):
        return lambda scalar: duration_seconds(scalar.value, kind.unit)
    return None


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
