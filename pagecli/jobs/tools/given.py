"""The tools that a row offers the model: its column `tools`, which chat templates show as they show transformers' `tools=`."""

from collections.abc import Mapping
from typing import Any

from pagecli.errors import ErrorCode, RowError
from pagecli.jobs.prompts.json_columns import json_column
from pagecli.jobs.rows.row import arrow_columns

COLUMN = "tools"


def row_tools(columns: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The row's tools, as templates take them; None where it offers none. Raises RowError."""
    value = columns.get(COLUMN)
    if value is None or value == "":  # CSV's null
        return None
    tools = json_column(COLUMN, value)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        hint = 'write it as [{"type": "function", "function": {"name": ..., "parameters": ...}}]'
        raise RowError(f"column {COLUMN} is not a list of objects", hint, ErrorCode.INVALID_TYPE)
    if tools is value and arrow_columns(columns) is not None:
        tools = _without_nulls(tools)
    return tools or None


def _without_nulls(value: Any) -> Any:
    """Nested columns have the keys of every row in each: those of other rows are null."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def tool_names(tools: Any) -> frozenset[str]:
    """The names by which the model may call these tools."""
    found = (tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)) if isinstance(tools, list) else ()
    names = (function.get("name") for function in found if isinstance(function, Mapping))
    return frozenset(name for name in names if isinstance(name, str))
