"""JSON as text that every reader takes, and the one bound on how deep it may be nested.

RFC 8259 has no NaN and no Infinity: carried ones are written as null, as JavaScript's JSON.stringify does. The depth is bounded
where rows are read, so that nothing behind the reader (filters, templates, writers, digests, the journal) meets a value that
it cannot walk through. 100 levels are what Arrow reads of a Parquet schema (its limit counts groups, the row among them).
"""

import base64
import decimal
import json
import math
from collections.abc import Iterable
from typing import Any

MAX_DEPTH = 100  # of objects and lists inside each other; the row itself is the first
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def json_default(value: Any) -> Any:
    """For json.dumps: bytes as base64, exact decimals as text with all their digits."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    return str(value)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=json_default).encode


def to_json(value: Any) -> str:
    """One line of strict JSON. `value` is nested at most MAX_DEPTH deep."""
    try:
        return _encode(value)
    except ValueError:
        return _encode(_finite(value))


def _finite(value: Any) -> Any:
    """The value with null for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def is_too_deep(value: Any) -> bool:
    """Whether objects and lists in `value`, itself included, are nested deeper than MAX_DEPTH; without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [container for container in level if isinstance(container, dict | list)]
        if not level:
            return False
        level = [item for container in level for item in _items(container)]
    return True


def _items(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
