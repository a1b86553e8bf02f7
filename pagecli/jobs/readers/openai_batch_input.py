"""Rows of an OpenAI batch file: {"custom_id", "method", "url", "body"}, turned into the columns that plain rows have.

Format: platform.openai.com/docs/api-reference/batch/request-input, and Azure's, whose urls have no /v1. A known parameter that
changes the text and is not supported makes an error row; other keys are ignored with a warning; what the body leaves out comes
from the flags.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pagecli.errors import ErrorCode, RowError
from pagecli.jobs.prompts.template_variables import COLUMN as TEMPLATE_VARIABLES
from pagecli.jobs.readers import response_format
from pagecli.jobs.rows.chat_messages import checked_message
from pagecli.jobs.rows.row import InputRow
from pagecli.jobs.rows.row_parameters import SAMPLING_FIELDS
from pagecli.jobs.tools.given import COLUMN as TOOLS

CHAT_URL, COMPLETIONS_URL = "/v1/chat/completions", "/v1/completions"
KEYS = {"custom_id", "method", "url", "body"}
MAX_WARNINGS = 8  # about ignored keys
# Of these the text does not depend.
WITHOUT_EFFECT = {
    *("model", "user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls", "stream_options"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "priority", "request_id"),
}
# Parameters that are not supported, and the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "echo": (False,),
    "suffix": ("",),
    "logit_bias": ({},),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "web_search_options": (),
    # vLLM's and SGLang's, in clients that write every default.
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "no_stop_trim": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "use_beam_search": (False,),
    "return_token_ids": (False,),
    "prompt_logprobs": (False,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "truncate_prompt_tokens": (),
    "chat_template": (),
    "mm_processor_kwargs": ({},),
    "documents": ([],),
    "guided_json": (),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "structured_outputs": ({},),
    "lora_path": ("",),
}
# Values by which a client says that it wants nothing, of parameters that pagecli has.
OFF: dict[str, tuple[Any, ...]] = {"top_k": (-1,), "stop": ("", []), "stop_token_ids": ([],), TOOLS: ([],)}
RENAMED = {"max_completion_tokens": "max_tokens"}
OF_TEMPLATES = (TEMPLATE_VARIABLES, TOOLS)


class BatchRequests:
    """Turns requests into plain rows, and warns once of each key that is ignored, so that a misspelt parameter shows."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._noted: set[str] = set()

    def plain_row(self, row: InputRow) -> InputRow:
        """The row of a request, as `from_batch_row` gives it."""
        self._warn_of_ignored(row.columns)
        return from_batch_row(row)

    def _warn_of_ignored(self, request: Mapping[str, Any]) -> None:
        body = request.get("body")
        inner = [f"body.{name}" for name in body if _is_ignored(name)] if isinstance(body, Mapping) else []
        for key in [name for name in request if name not in KEYS] + inner:
            if key in self._noted or len(self._noted) > MAX_WARNINGS:
                continue
            self._noted.add(key)
            what = f"{key!r} of batch requests" if len(self._noted) <= MAX_WARNINGS else "more keys of batch requests"
            self._warn(f"{what} {'is' if len(self._noted) <= MAX_WARNINGS else 'are'} ignored")


def _is_ignored(name: str) -> bool:
    known = name in WITHOUT_EFFECT or name in NEUTRAL or name in RENAMED or name in SAMPLING_FIELDS
    return not known and name not in ("messages", "prompt", "top_logprobs", *OF_TEMPLATES)


def canonical_url(url: Any) -> str | None:
    """OpenAI's url for what a request asks for; None if it is none that is supported. Azure's begins without /v1."""
    if not isinstance(url, str):
        return None
    path = url.rstrip("/").partition("?")[0]
    for known in (CHAT_URL, COMPLETIONS_URL):
        if path == known or path == known.removeprefix("/v1") or path.endswith((f"/openai{known}", f".com{known}")):
            return known
    return None


def from_batch_row(row: InputRow) -> InputRow:
    """The row with plain columns (id, url, model, prompt or messages, sampling parameters) and its `batch_url`.

    A request that cannot be run comes back as an error row that keeps its id.
    """
    custom_id, url = row.columns.get("custom_id"), row.columns.get("url")
    columns: dict[str, Any] = {"id": custom_id} if isinstance(custom_id, str) else {}
    known_url = canonical_url(url) or ""
    if row.error is not None:
        return dataclasses.replace(row, columns=columns, batch_url=known_url)
    try:
        columns.update(_request(row.columns))
        return dataclasses.replace(row, columns=columns, batch_url=canonical_url(columns["url"]))
    except RowError as problem:
        text = f"{problem.message}; {problem.hint}" if problem.hint else problem.message
        error = f"{row.location}: {text}"
        return dataclasses.replace(row, columns=columns, batch_url=known_url, error=error, error_code=problem.code)


def _request(request: Mapping[str, Any]) -> dict[str, Any]:
    custom_id, body = request.get("custom_id"), request.get("body")
    if not isinstance(custom_id, str):
        raise RowError("custom_id is missing, or not text", code=ErrorCode.INVALID_TYPE)
    if not isinstance(body, Mapping):
        raise RowError("body is missing, or not an object", code=ErrorCode.INVALID_TYPE)
    if str(request.get("method") or "POST").upper() != "POST":
        raise RowError(f"method is {request['method']!r}, not 'POST'", code=ErrorCode.UNSUPPORTED)
    asked = request.get("url")
    if asked is None:
        asked = COMPLETIONS_URL if "prompt" in body else CHAT_URL
    url = canonical_url(asked)
    if url is None:
        raise RowError(f"url is {asked!r}", f"{CHAT_URL} and {COMPLETIONS_URL} are supported", ErrorCode.UNSUPPORTED)
    columns = {"url": asked}
    if isinstance(body.get("model"), str):
        columns["model"] = body["model"]
    columns.update(_chat_prompt(body) if url == CHAT_URL else _plain_prompt(body))
    columns.update(_parameters(body, url))
    return columns


def _chat_prompt(body: Mapping[str, Any]) -> dict[str, Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("body.messages is not a list of at least one message", code=ErrorCode.INVALID_TYPE)
    return {"messages": [_message(f"body.messages[{number}]", message) for number, message in enumerate(messages)]}


def _message(where: str, message: Any) -> dict[str, Any]:
    """A message as chat templates know it: text parts joined, the role `developer` as its predecessor, `system`."""
    message = checked_message(where, message)
    return {**message, "role": "system" if message["role"] == "developer" else message["role"]}


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
    """The sampling parameters by pagecli's names. Raises RowError for one that is not supported."""
    prompt, other_prompt = ("messages", "prompt") if url == CHAT_URL else ("prompt", "messages")
    if body.get(other_prompt) is not None:
        raise RowError(f"body.{other_prompt} is not a parameter of {url}", f"leave {other_prompt} out", ErrorCode.UNSUPPORTED)
    taken = {prompt, other_prompt, "logprobs", "top_logprobs", *WITHOUT_EFFECT}
    columns: dict[str, Any] = {}
    forms: dict[str, Any] = {}  # what the answer is to look like
    for name, value in body.items():
        asks_for_nothing = value is None or _is_one_of(value, (*NEUTRAL.get(name, ()), *OFF.get(name, ())))
        if name in taken or asks_for_nothing or _is_ignored(name):
            continue
        if name in response_format.NAMES:
            forms[name] = value
            continue
        new_name = RENAMED.get(name, name)
        if new_name not in SAMPLING_FIELDS and (new_name not in OF_TEMPLATES or (name == TOOLS and url != CHAT_URL)):
            raise RowError(f"body.{name} is not supported", f"leave {name} out", ErrorCode.UNSUPPORTED)
        if columns.get(new_name, value) != value:
            raise RowError(f"body has {name} and {new_name}, which differ", "leave one of them out")
        columns[new_name] = value
    if body.get("tool_choice") == "none":
        columns.pop(TOOLS, None)
    seed = columns.get("seed")
    if isinstance(seed, int) and -(2**63) <= seed < 0:
        columns["seed"] = seed % 2**64
    if columns.get("best_of") == columns.get("n", 1):
        columns.pop("best_of", None)  # nothing to choose from
    if forms:
        columns.update(response_format.constraint_columns(forms))
    logprobs = _logprobs(body, url)
    return columns if logprobs is None else {**columns, "logprobs": logprobs}


def _logprobs(body: Mapping[str, Any], url: str) -> int | None:
    """How many of the likeliest tokens are wanted at each position; None: no log probabilities."""
    wanted, top = body.get("logprobs"), body.get("top_logprobs")
    if url == COMPLETIONS_URL:
        if top is not None and top is not False and top != 0:
            raise RowError(f"body.top_logprobs is no parameter of {url}", "give logprobs a number")
        return None if wanted is False else wanted
    if wanted is not None and not isinstance(wanted, bool) and wanted != 0:
        raise RowError(f"body.logprobs is {wanted!r}, not true or false", "top_logprobs takes the number")
    if top and not wanted:
        raise RowError("body.top_logprobs is given without logprobs", "add logprobs: true")
    return (0 if top is None else top) if wanted else None


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(isinstance(value, bool) == isinstance(item, bool) and value == item for item in neutral)
