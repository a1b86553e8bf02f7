"""Arrow values as Python and JSON values: of every type and every value, in one form for a whole column.

The form follows from the column's type alone, never from a value: exact decimals, dates and times as text (arrow_times.py),
durations in seconds, bytes as base64 in JSON, maps as lists of pairs, extension types as what they are stored as.
"""

import base64
import decimal
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pyarrow import types

from pagecli.jobs.rows.arrow_times import date_text, duration_seconds, time_text, timestamp_text

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


def json_default(value: Any) -> Any:
    """For json.dumps: bytes as base64, exact decimals as text with all their digits."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    return str(value)


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
    except (ArithmeticError, ValueError, NotImplementedError):
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
