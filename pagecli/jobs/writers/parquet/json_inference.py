"""Arrow columns out of JSON values: one type for a whole column, widened as values come, JSON text where none fits.

What is nested deeper than MAX_LEVELS, or has more leaf columns than it may, is never given to Arrow: its memory is objects
times keys, and a file nested 50 lists deep is one that Arrow writes and does not open (it reads 100 levels of the schema, of
which a list takes two).
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pagecli.jobs.rows.row import to_json

MAX_LEVELS = 32  # of lists and objects inside each other in a Parquet column


def to_array(values: list[Any]) -> pa.Array | None:
    """Bounded values (see is_bounded) as an Arrow array that says exactly what they say, or None where no type does.

    Integers among floats become floats; missing keys of objects become null. Nothing else is converted.
    """
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None
    if not _storable(array.type) or (_has_float(array.type) and not all(_says(array.type, value) for value in values)):
        return None
    return array


def is_bounded(values: list[Any], max_leaves: int) -> bool:
    """Whether one type for the values is nested at most MAX_LEVELS deep and has at most `max_leaves` leaf columns."""
    groups = [values]  # of values that lie in one place of the type
    for _ in range(MAX_LEVELS + 1):
        inner: dict[tuple[int, str | None], list[Any]] = {}
        for index, group in enumerate(groups):
            for name, value in _inner_values(group):
                inner.setdefault((index, name), []).append(value)
                if len(inner) > max_leaves:
                    return False
        groups = list(inner.values())
        if not groups:
            return True
    return False


def _inner_values(group: list[Any]) -> Iterable[tuple[str | None, Any]]:
    """What is in the objects, by its key, and in the lists of a group; of a list only what may hold more."""
    for value in group:
        if isinstance(value, dict):
            yield from value.items()
        elif isinstance(value, list):
            yield None, None
            yield from ((None, item) for item in value if isinstance(item, dict | list))


def num_leaves(kind: pa.DataType) -> int:
    """Leaf columns that a column of this type takes in Parquet."""
    return sum(num_leaves(kind.field(number).type) for number in range(kind.num_fields)) if kind.num_fields else 1


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
    return to_json(value)


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
