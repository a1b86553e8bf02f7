"""Sampling parameters out of a row's columns: a column named like a SamplingParams field overrides the flag."""

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any, get_args

from pagecli.core.json_text import parsed
from pagecli.core.sampling_params import CONSTRAINTS, EarlyStopping, SamplingParams
from pagecli.errors import RowError, UsageError, short_repr
from pagecli.jobs.prompts.json_columns import json_column
from pagecli.jobs.rows.row import json_default

SAMPLING_FIELDS = tuple(field.name for field in dataclasses.fields(SamplingParams))
OF_ROW = frozenset(SAMPLING_FIELDS)  # those that a row may bring
OF_MODEL = frozenset({"lora"})  # those that scores and embeddings depend on, as nothing is sampled for them


def row_sampling_params(
    base: SamplingParams, columns: Mapping[str, Any], ignore: str, of_model: Collection[str] = (), own: Collection[str] = OF_ROW
) -> SamplingParams:
    """`base` with the row's values of the names in `own`; null means not given, the column `ignore` (the prompt's) is left.

    `of_model`: values of `base` that are the model's defaults: its temperature does not reach a row that searches by beams.
    Raises RowError naming the column.
    """
    overrides = {}
    for name in SAMPLING_FIELDS:
        value = columns.get(name) if name in own and name != ignore else None
        if value is not None:
            overrides[name] = _CONVERTERS[name](name, value)
    if not overrides:
        return base
    if not overrides.keys().isdisjoint(CONSTRAINTS):  # the row's own stands in place of the flag's, of whatever kind
        overrides = {"json_schema": None, "regex": None, "grammar": None, "choice": (), **overrides}
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


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _wrong_type(name, value, "text")


def _schema(name: str, value: Any) -> str:
    """A JSON schema as an object, or as its text."""
    if isinstance(value, Mapping | bool):
        return json.dumps(value, ensure_ascii=False, default=json_default)
    try:
        schema = parsed(value) if isinstance(value, str) else None
    except ValueError:
        schema = None
    if isinstance(schema, dict | bool):
        return str(value)
    raise _wrong_type(name, value, "a JSON schema")


def _choices(name: str, value: Any) -> tuple[str, ...]:
    """A list of texts, as such or as JSON: a text alone, which would be the only choice, is refused."""
    texts = json_column(name, value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return tuple(texts)
    raise _wrong_type(name, value, "a list of texts")


_BY_NAME: dict[str, Callable[[str, Any], Any]] = {
    "json_schema": _schema,
    "regex": _text,
    "grammar": _text,
    "choice": _choices,
    "lora": _text,
}
_BY_TYPE: dict[Any, Callable[[str, Any], Any]] = {
    int: _integer,
    int | None: _integer,
    float: _number,
    bool: _boolean,
    EarlyStopping: _early_stopping,
    tuple[str, ...]: _strings,
    tuple[int, ...]: _integers,
}
_CONVERTERS = {field.name: _BY_NAME.get(field.name) or _BY_TYPE[field.type] for field in dataclasses.fields(SamplingParams)}
