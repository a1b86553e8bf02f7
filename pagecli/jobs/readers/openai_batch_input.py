"""Rows of an OpenAI batch file: {"custom_id", "method", "url", "body"}, turned into the columns that plain rows have.

Format: platform.openai.com/docs/api-reference/batch/request-input. A parameter that changes the text and is not supported
makes an error row; what the body leaves out comes from the flags.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pagecli.errors import ErrorCode, RowError
from pagecli.jobs.rows.input_row import InputRow
from pagecli.jobs.rows.row_parameters import SAMPLING_FIELDS

CHAT_URL, COMPLETIONS_URL = "/v1/chat/completions", "/v1/completions"
KEYS = {"custom_id", "method", "url", "body"}
# Of these the text does not depend.
WITHOUT_EFFECT = {
    *("model", "user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls", "stream_options"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
}
# Parameters that are not supported, and the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "echo": (False,),
    "suffix": ("",),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "moderation": (),
    "web_search_options": (),
}
RENAMED = {"max_completion_tokens": "max_tokens"}


def is_batch_row(columns: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a request of a batch file: a body that is an object, an id, and nothing that is not of it."""
    return set(columns) <= KEYS and "custom_id" in columns and isinstance(columns.get("body"), Mapping)


def from_batch_row(row: InputRow) -> InputRow:
    """The row with plain columns (id, url, model, prompt or messages, sampling parameters) and its `batch_url`.

    A request that cannot be run comes back as an error row that keeps its id.
    """
    custom_id, url = row.columns.get("custom_id"), row.columns.get("url")
    columns: dict[str, Any] = {"id": custom_id} if isinstance(custom_id, str) else {}
    known_url = url if url in (CHAT_URL, COMPLETIONS_URL) else ""
    if row.error is not None:
        return dataclasses.replace(row, columns=columns, batch_url=known_url)
    try:
        columns.update(_request(row.columns))
        return dataclasses.replace(row, columns=columns, batch_url=columns["url"])
    except RowError as problem:
        text = f"{problem.message}; {problem.hint}" if problem.hint else problem.message
        error = f"{row.place}: {text}"
        return dataclasses.replace(row, columns=columns, batch_url=known_url, error=error, error_code=problem.code)


def _request(request: Mapping[str, Any]) -> dict[str, Any]:
    custom_id, body = request.get("custom_id"), request.get("body")
    if not isinstance(custom_id, str):
        raise RowError("custom_id is missing, or not text", code=ErrorCode.INVALID_TYPE)
    if not isinstance(body, Mapping):
        raise RowError("body is missing, or not an object", code=ErrorCode.INVALID_TYPE)
    unknown = sorted(set(request) - KEYS)
    if unknown:
        raise RowError(f"{unknown[0]!r} is no part of a batch request", code=ErrorCode.UNSUPPORTED)
    if request.get("method", "POST") != "POST":
        raise RowError(f"method is {request['method']!r}, not 'POST'", code=ErrorCode.UNSUPPORTED)
    url = request.get("url", COMPLETIONS_URL if "prompt" in body else CHAT_URL)
    if url not in (CHAT_URL, COMPLETIONS_URL):
        raise RowError(f"url is {url!r}", f"{CHAT_URL} and {COMPLETIONS_URL} are supported", ErrorCode.UNSUPPORTED)
    columns = {"url": url}
    if isinstance(body.get("model"), str):
        columns["model"] = body["model"]
    columns.update(_chat_prompt(body) if url == CHAT_URL else _plain_prompt(body))
    columns.update(_parameters(body, url))
    return columns


def _chat_prompt(body: Mapping[str, Any]) -> dict[str, Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("body.messages is not a list of at least one message", code=ErrorCode.INVALID_TYPE)
    return {"messages": [_message(number, message) for number, message in enumerate(messages)]}


def _message(number: int, message: Any) -> dict[str, Any]:
    """A message as chat templates know it: text parts joined, the role `developer` as its predecessor, `system`."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RowError(f"body.messages[{number}] is not an object with a role", code=ErrorCode.INVALID_TYPE)
    role, content = message["role"], message.get("content")
    if isinstance(content, list):
        content = "".join(_part(f"body.messages[{number}].content[{i}]", part) for i, part in enumerate(content))
    elif content is not None and not isinstance(content, str):
        raise RowError(f"body.messages[{number}].content is neither text nor a list of parts", code=ErrorCode.INVALID_TYPE)
    return {**message, "role": "system" if role == "developer" else role, "content": content}


def _part(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise RowError(f"{where} is of type {kind!r}; only text is supported", code=ErrorCode.UNSUPPORTED)
    if not isinstance(part.get("text"), str):
        raise RowError(f"{where}.text is not text", code=ErrorCode.INVALID_TYPE)
    return part["text"]


def _plain_prompt(body: Mapping[str, Any]) -> dict[str, Any]:
    """Text or token ids; of a list of prompts, the only one."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            message = f"body.prompt is a list of {len(prompt)} prompts"
            raise RowError(message, "write one request for each", ErrorCode.UNSUPPORTED)
        prompt = prompt[0]
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if isinstance(prompt, list):
        return {"prompt_token_ids": prompt}
    raise RowError("body.prompt is missing, or neither text nor token ids", code=ErrorCode.INVALID_TYPE)


def _parameters(body: Mapping[str, Any], url: str) -> dict[str, Any]:
    """The sampling parameters by pagecli's names. Raises RowError for one that is unknown or not supported."""
    taken = {"messages" if url == CHAT_URL else "prompt", "logprobs", "top_logprobs", *WITHOUT_EFFECT}
    columns: dict[str, Any] = {}
    for name, value in body.items():
        if name in taken or value is None or (name in NEUTRAL and _is_one_of(value, NEUTRAL[name])):
            continue
        new_name = RENAMED.get(name, name)
        if new_name not in SAMPLING_FIELDS:
            reason = "is not supported" if name in NEUTRAL else "is not a parameter that pagecli knows"
            raise RowError(f"body.{name} {reason}", f"leave {name} out", ErrorCode.UNSUPPORTED)
        if columns.get(new_name, value) != value:
            raise RowError(f"body has {name} and {new_name}, which differ", "leave one of them out")
        columns[new_name] = value
    seed = columns.get("seed")
    if isinstance(seed, int) and -(2**63) <= seed < 0:
        columns["seed"] = seed % 2**64
    if columns.get("best_of") == columns.get("n", 1):
        columns.pop("best_of", None)  # nothing to choose from
    logprobs = _logprobs(body, url)
    return columns if logprobs is None else {**columns, "logprobs": logprobs}


def _logprobs(body: Mapping[str, Any], url: str) -> int | None:
    """How many of the likeliest tokens are wanted at each position; None: no log probabilities."""
    wanted, top = body.get("logprobs"), body.get("top_logprobs")
    if url == COMPLETIONS_URL:
        if top is not None:
            raise RowError(f"body.top_logprobs is no parameter of {url}", "give logprobs a number")
        return wanted
    if wanted is not None and not isinstance(wanted, bool):
        raise RowError(f"body.logprobs is {wanted!r}, not true or false", "top_logprobs takes the number")
    if top is not None and not wanted:
        raise RowError("body.top_logprobs is given without logprobs", "add logprobs: true")
    return (0 if top is None else top) if wanted else None


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(type(value) is type(item) and value == item for item in neutral)
