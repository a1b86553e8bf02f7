"""What a request of a batch file asks its answer to look like: OpenAI's response_format, and the parameters by which vLLM's
clients ask for the same."""

from collections.abc import Mapping
from typing import Any

from pagecli.errors import ErrorCode, RowError

ANY_OBJECT = {"type": "object"}
RENAMED = {"guided_json": "json_schema", "guided_regex": "regex", "guided_choice": "choice"}
INSIDE = {"json": "json_schema", "regex": "regex", "choice": "choice"}  # of structured_outputs
NAMES = ("response_format", "structured_outputs", *RENAMED)


def constraint_columns(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The one column (json_schema, regex or choice) that says the same as these parameters of a request's body; empty where
    they ask for any text. Raises RowError."""
    columns = {RENAMED[name]: value for name, value in asked.items() if name in RENAMED}
    if "response_format" in asked:
        columns.update(_of_format(asked["response_format"]))
    if "structured_outputs" in asked:
        columns.update(_of_structured(asked["structured_outputs"]))
    if len(columns) > 1 or len(asked) > max(1, len(columns)):
        raise RowError(f"body has {' and '.join(asked)}", "leave all but one of them out")
    return columns


def _of_format(value: Any) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": ANY_OBJECT}
    if kind != "json_schema":
        hint = "text, json_object and json_schema are supported"
        raise RowError(f"body.response_format.type is {kind!r}", hint, ErrorCode.UNSUPPORTED)
    inner = value.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if schema is None:
        raise RowError("body.response_format.json_schema has no schema")
    return {"json_schema": schema}


def _of_structured(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RowError("body.structured_outputs is not an object", code=ErrorCode.INVALID_TYPE)
    given = {name: item for name, item in value.items() if item is not None and item is not False}
    unknown = [name for name in given if name not in INSIDE]
    if unknown:
        raise RowError(
            f"body.structured_outputs.{unknown[0]} is not supported", f"leave {unknown[0]} out", ErrorCode.UNSUPPORTED
        )
    return {INSIDE[name]: item for name, item in given.items()}
