"""Bounds on a chat template's values: an operation is refused before it builds one that is too large.

Operations are checked one by one, by the sizes of their operands. A template that passes them all is still bounded by the
memory and time limits of the process that renders it (process.py).
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

from pagecli.model.tokenizer.templates import limits

OPERATORS = frozenset(("+", "*", "**", "%", "//"))
_SEQUENCES = (str, bytes, list, tuple)
# Filters and methods whose arguments are widths or counts, and filters that compare items with each other.
_SIZED = frozenset(("center", "indent", "slice", "batch", "truncate", "wordwrap", "tojson", "round", "urlize"))
_SIZED |= frozenset(("ljust", "rjust", "zfill", "expandtabs", "to_bytes", "replace"))
_COMPARING = frozenset(("sort", "dictsort", "unique", "groupby", "min", "max", "sum"))
_WIDE_FORMAT = re.compile(r"\d{6}|\*|:[^{}]*\{")  # a width of six digits, or one that is an argument


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Raise SecurityError if `left operator right` would be too large."""
    if operator == "%" and isinstance(left, str):
        _check_format(left, right)
        return
    if operator == "+":
        if isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
            most = limits.MAX_TEXT if isinstance(left, str) else limits.MAX_SIZE
            _check_size(operator, len(left) + len(right), most)
    elif operator == "*" and (isinstance(left, _SEQUENCES) or isinstance(right, _SEQUENCES)):
        _check_size(operator, _repeated(left, right))
    elif operator == "**":
        _check_size(operator, _bits(left) * right if isinstance(right, int) and right > 0 else 0, limits.MAX_BITS)
    _check_size(operator, _bits(left) + _bits(right), limits.MAX_BITS)


def checked_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, its arguments checked first; SecurityError."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # what Jinja passes in front of the value

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value, *rest = args[first:] or (None,)
        check_call(name, value, rest, kwargs)
        return function(*args, **kwargs)

    return checked


def check_call(name: str, value: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise SecurityError if a filter on the value, or its method, would make something too large of these arguments."""
    given = [*args, *kwargs.values()]
    if name in _SIZED:
        for number in given:
            if isinstance(number, int) and abs(number) > limits.MAX_NUMBER:
                raise SecurityError(f"{name} is given the number {number:,}")
    if name in _COMPARING and isinstance(value, (*_SEQUENCES, dict)):
        _check_size(name, len(value), limits.MAX_SORTED)
    if name in ("format", "format_map") and isinstance(value, str):
        _check_format(value, given)
    if name == "replace" and isinstance(value, str) and len(given) > 1 and all(isinstance(text, str) for text in given[:2]):
        _check_size(name, len(value) + value.count(given[0]) * len(given[1]), limits.MAX_TEXT)
    if name == "join":
        separator, items = (value, given[0] if given else ()) if isinstance(value, str) else (given[0] if given else "", value)
        if isinstance(separator, str) and isinstance(items, _SEQUENCES):
            _check_size(name, len(separator) * len(items), limits.MAX_TEXT)


def check_text(text: str) -> str:
    """The text, if it is not too long."""
    _check_size("~", len(text), limits.MAX_TEXT)
    return text


def _check_format(text: str, given: Any) -> None:
    found = _WIDE_FORMAT.search(text)
    if found is None:
        return
    numbers = given if isinstance(given, list | tuple) else [given]
    if found[0].isdigit() or any(isinstance(number, int) and abs(number) > limits.MAX_NUMBER for number in numbers):
        raise SecurityError(f"a format has a width beyond {limits.MAX_NUMBER:,}")


def _repeated(left: Any, right: Any) -> int:
    one, other = (left, right) if isinstance(left, _SEQUENCES) else (right, left)
    return len(one) * max(0, other) if isinstance(other, int) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _check_size(what: str, size: int, largest: int = limits.MAX_SIZE) -> None:
    if size > largest:
        raise SecurityError(f"{what} would make a value of size {size:,}")
