"""Arrow values as Python and JSON values: the one place that knows which Arrow types JSON cannot say."""

import base64
import datetime
import decimal
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa


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
    """The scalar as a Python value; timestamps finer than microseconds, which Python has no type for, as ISO text."""
    try:
        return scalar.as_py()
    except ValueError:
        array = pa.array([scalar], type=scalar.type)
        return array.cast(_with_text_times(scalar.type))[0].as_py()


def _with_text_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind):
        return pa.int64() if pa.types.is_duration(kind) else pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_text_times(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_with_text_times(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_with_text_times(kind.key_type), _with_text_times(kind.item_type))
    return kind


def json_default(value: Any) -> Any:
    """For json.dumps: dates as ISO text, bytes as base64, exact decimals as text, durations in seconds."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value)
