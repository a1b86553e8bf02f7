"""Sampling parameters out of a row's columns: a column named like a SamplingParams field overrides the flag."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any, get_args

from pagecli.core.sampling_params import EarlyStopping, SamplingParams, short_repr
from pagecli.errors import RowError, UsageError

SAMPLING_FIELDS = tuple(field.name for field in dataclasses.fields(SamplingParams))


def row_sampling_params(
    base: SamplingParams, columns: Mapping[str, Any], ignore: str, of_model: Collection[str] = ()
) -> SamplingParams:
    """`base` with the row's own values; null means not given, the column `ignore` (the prompt's) is left alone.

    `of_model`: values of `base` that are the model's defaults: its temperature does not reach a row that searches by beams.
    Raises RowError naming the column.
    """
    overrides = {}
    for name in SAMPLING_FIELDS:
        if name == ignore or name not in columns:
            continue
        value = columns[name]
        if value is not None:
            overrides[name] = _CONVERTERS[name](name, value)
    if not overrides:
        return base
    if "temperature" in of_model and overrides.get("beam_width", 1) > 1:
        overrides.setdefault("temperature", 0.0)
    try:
        return dataclasses.replace(base, **overrides)
    except UsageError as error:
        of_row = error.message.split()[0] in overrides  # or a flag's value that does not go with the row's
        raise RowError(f"column {error.message}" if of_row else error.message, error.hint) from error


def _integer(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float | Decimal) and math.isfinite(value) and float(value).is_integer() and float(value) == value:
        return int(value)
    raise _wrong_type(name, value, "an integer")


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _wrong_type(name, value, "a number in range") from None
    raise _wrong_type(name, value, "a number")


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong_type(name, value, "true or false")


def _strings(name: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list) and all(isinstance(item, str) for item in values):
        return tuple(values)
    raise _wrong_type(name, value, "a string or a list of strings")


def _integers(name: str, value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    try:
        return tuple(_integer(name, item) for item in values)
    except RowError:
        raise _wrong_type(name, value, "an integer or a list of integers") from None


def _wrong_type(name: str, value: Any, wanted: str) -> RowError:
    return RowError(f"column {name} is {short_repr(value)}, not {wanted}")


def _early_stopping(name: str, value: Any) -> str:
    """true, false or "never", as JSON or as text."""
    text = str(value).lower() if isinstance(value, bool) else value
    if text in get_args(EarlyStopping):
        return text
    raise _wrong_type(name, value, 'true, false or "never"')


_BY_TYPE: dict[Any, Callable[[str, Any], Any]] = {
    int: _integer,
    int | None: _integer,
    float: _number,
    bool: _boolean,
    EarlyStopping: _early_stopping,
    tuple[str, ...]: _strings,
    tuple[int, ...]: _integers,
}
_CONVERTERS = {field.name: _BY_TYPE[field.type] for field in dataclasses.fields(SamplingParams)}
