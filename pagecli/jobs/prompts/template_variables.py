"""What chat templates are given besides messages: --chat-template-arg, a row's columns `chat_template_kwargs` and `tools`."""

from collections.abc import Iterable, Mapping
from typing import Any

from pagecli.core.json_text import parsed
from pagecli.errors import ErrorCode, RowError, UsageError
from pagecli.jobs.prompts.json_columns import json_column
from pagecli.jobs.tools.given import COLUMN as TOOLS
from pagecli.jobs.tools.given import row_tools

COLUMN = "chat_template_kwargs"
FLAG = "--chat-template-arg"
# Arguments of transformers' apply_chat_template that are no variables of the template, and what pagecli gives it itself.
NOT_VARIABLES = ("messages", "conversation", "chat_template", "tokenize", "continue_final_message", "add_special_tokens")


def parse_arguments(texts: Iterable[str]) -> tuple[tuple[str, Any], ...]:
    """NAME=VALUE of each; a value is JSON where it is JSON (false, 3, [1]), else text. Raises UsageError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier() or name in NOT_VARIABLES:
            why = "is no variable of a template" if name in NOT_VARIABLES else "is no NAME=VALUE"
            raise UsageError(f"{FLAG} {text!r} {why}", "write it as enable_thinking=false")
        if name in found:
            raise UsageError(f"{FLAG} names {name} twice", "leave one of them out")
        try:
            found[name] = parsed(value)
        except ValueError:
            found[name] = value
    return tuple(found.items())


def row_variables(common: tuple[tuple[str, Any], ...], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Those of all rows, with the row's own in their place. Raises RowError."""
    tools = row_tools(columns)
    return {**dict(common), **_own(columns.get(COLUMN)), **({} if tools is None else {TOOLS: tools})}


def has_variables(common: tuple[tuple[str, Any], ...], columns: Mapping[str, Any]) -> bool:
    """Whether the row may have any."""
    return bool(common) or COLUMN in columns or TOOLS in columns


def _own(own: Any) -> dict[str, Any]:
    """The value of the column."""
    if own is None:
        return {}
    own = json_column(COLUMN, own)
    if not isinstance(own, Mapping):
        raise RowError(f"column {COLUMN} is not an object", 'write it as {"enable_thinking": false}', ErrorCode.INVALID_TYPE)
    wrong = [name for name in own if name in NOT_VARIABLES or not name.isidentifier()]
    if wrong:
        raise RowError(f"column {COLUMN}: {wrong[0]} is no variable of a template", code=ErrorCode.INVALID_PARAMETER)
    return {name: value for name, value in own.items() if value is not None}
