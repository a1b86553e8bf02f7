"""The forms in which models write tool calls, and the calls read out of an answer.

    Hermes, Qwen   <tool_call>{"name": "f", "arguments": {...}}</tool_call>, once for each call
    Mistral        [TOOL_CALLS] [{"name": "f", "arguments": {...}}, ...]; since 2025 [TOOL_CALLS]f[ARGS]{...} for each call
    Llama 3        {"name": "f", "parameters": {...}} and nothing else, several with ; between them, or <|python_tag|> before it

A model's form is found by what its chat template writes. An answer of which any call cannot be read has none.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is a JSON object, as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer with its tool calls taken out; `text` is what stands before and between them."""

    text: str
    calls: list[ToolCall]


Read = Callable[[str, frozenset[str]], ParsedAnswer]  # of an answer and the names of the row's tools; ValueError: no call in it


def form_of(template: str) -> "Read | None":
    """How the calls of this chat template's model are read; None where it writes them in no form of the table above."""
    return next((read for marks, read in _FORMS if any(mark in template for mark in marks)), None)


def parsed(read: Read, text: str, names: frozenset[str]) -> ParsedAnswer | None:
    """The answer's calls; None where it has none, or one that cannot be read."""
    try:
        return read(text, names)
    except (ValueError, RecursionError):
        return None


def _read_hermes(text: str, names: frozenset[str]) -> ParsedAnswer:
    opening, closing = "<tool_call>", "</tool_call>"
    outside, calls, end = [], [], 0
    while (start := text.find(opening, end)) >= 0:
        outside.append(text[end:start])
        value, end = _json_at(text, start + len(opening))
        calls.append(_call(value))
        if text.startswith(closing, end):
            end += len(closing)
        elif end != len(text):  # at the end of the output the marker may be missing
            raise ValueError(f"no {closing}")
    return _answer([*outside, text[end:]], calls)


def _read_mistral(text: str, names: frozenset[str]) -> ParsedAnswer:
    before, mark, rest = text.partition(_MISTRAL)
    if not mark:
        raise ValueError(f"no {_MISTRAL}")
    if rest.lstrip().startswith("["):
        values, end = _json_at(rest, 0)
        return _answer([before, rest[end:]], [_call(value) for value in values])
    calls, end = [], 0
    while True:
        head = _MISTRAL_HEAD.match(rest, end)
        if head is None:
            raise ValueError("no name of a tool")
        arguments, end = _json_at(rest, head.end())
        calls.append(_call({"name": head[1], "arguments": arguments}))
        if end == len(rest):
            return _answer([before], calls)
        if not rest.startswith(_MISTRAL, end):
            raise ValueError("text behind a call")
        end += len(_MISTRAL)


def _read_llama(text: str, names: frozenset[str]) -> ParsedAnswer:
    before, mark, rest = text.partition(_LLAMA)
    if not mark:
        before, rest = "", text
    calls, end = [], 0
    while True:
        value, end = _json_at(rest, end)
        calls.append(_call(value))
        if not mark and (calls[-1].name not in names or not {"parameters", "arguments"} & value.keys()):
            raise ValueError("an object that is no call")
        if end == len(rest):
            return _answer([before], calls)
        if not rest.startswith(";", end):
            raise ValueError("text behind a call")
        end += 1


def _answer(outside: list[str], calls: list[ToolCall]) -> ParsedAnswer:
    if not calls:
        raise ValueError("no call")
    return ParsedAnswer("\n".join(filter(None, (piece.strip() for piece in outside))), calls)


def _call(value: Any) -> ToolCall:
    if not isinstance(value, dict):
        raise ValueError("a call that is no object")
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if not isinstance(name, str) or not name or not name.isprintable() or not isinstance(arguments, dict):
        raise ValueError("a call without a name, or with arguments that are no object")
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # an escaped half of a character
        text = json.dumps(arguments)
    return ToolCall(name, text)


def _json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins there, white space before it aside, and where the white space behind it ends."""
    value, end = _DECODER.raw_decode(text, _skip(text, start))
    return value, _skip(text, end)


def _skip(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return start if found is None else found.end()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
_SPACE = re.compile(r"\s*")
_MISTRAL, _LLAMA = "[TOOL_CALLS]", "<|python_tag|>"
_MISTRAL_HEAD = re.compile(r"\s*([^\s\[\]{}]+)(?:\[CALL_ID\][^\s\[\]{}]*)?(?:\[ARGS\])?")
_FORMS: tuple[tuple[tuple[str, ...], Read], ...] = (  # what the template has of it
    (("<tool_call>",), _read_hermes),
    ((_MISTRAL,), _read_mistral),
    ((_LLAMA, "ipython"), _read_llama),
)
