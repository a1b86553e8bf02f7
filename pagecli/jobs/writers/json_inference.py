"""Arrow columns out of JSON values: one type for a whole column, widened as values come, JSON text where none fits."""

import json
from typing import Any

import pyarrow as pa

from pagecli.jobs.rows.arrow_values import json_default


def to_array(values: list[Any]) -> pa.Array | None:
    """The values as an Arrow array that says exactly what they say, or None where no Arrow type does.

    Integers among floats become floats; missing keys of objects become null. Nothing else is converted.
    """
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None
    if not _storable(array.type) or (_has_float(array.type) and not all(_says(array.type, value) for value in values)):
        return None
    return array


def merged_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds both (int64 and double: double; objects: all keys), or None where there is none."""
    try:
        schema = pa.unify_schemas([pa.schema([("x", one)]), pa.schema([("x", other)])], promote_options="permissive")
    except pa.ArrowException:
        return None
    return schema.field("x").type


def widened(array: Any, kind: pa.DataType) -> Any | None:
    """The array (or chunked array) as `kind`, or None if a value would change by it."""
    if array.type == kind:
        return array
    try:
        return array.cast(kind)
    except pa.ArrowException:  # a cast that does not exist is one too
        return None


def json_text(value: Any, plain_strings: bool) -> str | None:
    """A value of a column that holds more than one type; `plain_strings` leaves text unquoted (the id column)."""
    if value is None:
        return None
    if plain_strings and isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=json_default)


def _storable(kind: pa.DataType) -> bool:
    """Parquet has no object without keys."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_storable(field.type) for field in kind)
    return _storable(kind.value_type) if pa.types.is_list(kind) else True


def _has_float(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_has_float(field.type) for field in kind)
    return _has_float(kind.value_type) if pa.types.is_list(kind) else pa.types.is_floating(kind)


def _says(kind: pa.DataType, value: Any) -> bool:
    """Whether `value` keeps its meaning as `kind`: Arrow would take true for 1.0 among floats."""
    if value is None:
        return True
    if pa.types.is_struct(kind):
        return all(_says(field.type, value.get(field.name)) for field in kind)
    if pa.types.is_list(kind):
        return all(_says(kind.value_type, item) for item in value)
    return not (pa.types.is_floating(kind) and isinstance(value, bool))
