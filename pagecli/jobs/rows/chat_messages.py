"""Chat messages as templates take them: a role, and text. What a template would write as Python shows it is refused before."""

from collections.abc import Mapping
from typing import Any

from pagecli.core.json_text import parsed
from pagecli.errors import ErrorCode, RowError


def checked_message(where: str, message: Any) -> dict[str, Any]:
    """The message with its content as text: parts of text are joined. Raises RowError, which calls it `where`."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RowError(f"{where} is not an object with a role", code=ErrorCode.INVALID_TYPE)
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(f"{where}.content[{number}]", part) for number, part in enumerate(content))
    elif content is not None and not isinstance(content, str):
        raise RowError(f"{where}.content is neither text nor a list of parts", code=ErrorCode.INVALID_TYPE)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        return {**message, "content": content, "tool_calls": [_with_parsed_arguments(call) for call in calls]}
    return {**message, "content": content}


def _with_parsed_arguments(call: Any) -> Any:
    """A tool call with its arguments as an object, which templates write as JSON: OpenAI's messages have them as text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(arguments := function.get("arguments"), str):
        return call
    try:
        given = parsed(arguments)
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": given}} if isinstance(given, dict) else call


def _part(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text":
        raise RowError(f"{where} is of type {kind!r}; only text is supported", code=ErrorCode.UNSUPPORTED)
    if not isinstance(part.get("text"), str):
        raise RowError(f"{where}.text is not text", code=ErrorCode.INVALID_TYPE)
    text: str = part["text"]
    return text
