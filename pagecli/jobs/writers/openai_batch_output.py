"""Results in OpenAI's batch output format: one line for a request, with a chat.completion or text_completion, or an error.

Format: platform.openai.com/docs/api-reference/batch/request-output. Ids are made of the row, and `created` is one time for
the whole job, so that a job that is run again or resumed writes the same bytes.
"""

import codecs
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from pagecli.core.outputs import TokenLogprobs
from pagecli.jobs.readers.openai_batch_input import COMPLETIONS_URL
from pagecli.jobs.rows.row import OutputRow

IMPOSSIBLE_LOGPROB = -9999.0  # what the format has for a token that could not be chosen


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token as log probabilities show it: `bytes` as the vocabulary has them, None where they are not known."""

    text: str
    bytes: bytes | None

    @property
    def key(self) -> str:
        """The text where it says all, else the bytes in OpenAI's notation: two tokens that differ have two keys."""
        if self.bytes is None or self.text.encode() == self.bytes:
            return self.text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes)


class TokenTexts:
    """A token's text and bytes, once the tokenizer is there; before that, and without one, the token's id in words."""

    def __init__(self) -> None:
        self._bytes: Callable[[int], bytes | None] = lambda token_id: None
        self._text = functools.lru_cache(maxsize=1 << 16)(self._found)

    def bind(self, token_bytes: Callable[[int], bytes | None]) -> None:
        self._bytes = token_bytes
        self._text.cache_clear()

    def __call__(self, token_id: int) -> TokenText:
        return self._text(token_id)

    def _found(self, token_id: int) -> TokenText:
        found = self._bytes(token_id)
        return TokenText(f"token_id:{token_id}" if found is None else found.decode("utf-8", "replace"), found)


class BatchEncoder:
    """Output rows -> lines of a batch output file. A row of several samples gives its line with the last of them."""

    def __init__(self, model: str, created: int, token_text: Callable[[int], TokenText]) -> None:
        self._model = model
        self._created = created  # Unix time, seconds
        self._token_text = token_text
        self._samples: list[OutputRow] = []

    def __call__(self, row: OutputRow) -> bytes:
        self._samples.append(row)
        if len(self._samples) < row.num_samples:
            return b""
        samples, self._samples = self._samples, []
        return (json.dumps(self.record(samples), ensure_ascii=False) + "\n").encode("utf-8", "replace")

    def record(self, samples: list[OutputRow]) -> dict[str, Any]:
        """The line as an object; `samples` are all rows of one request."""
        first = samples[0]
        custom_id = first.row.columns.get("id")
        digest = blake2b(f"{first.row.number} {custom_id}".encode("utf-8", "replace"), digest_size=16).hexdigest()
        record: dict[str, Any] = {"id": f"batch_req_{digest}", "custom_id": custom_id, "response": None, "error": None}
        failed = next((sample for sample in samples if sample.error is not None), None)
        if failed is not None:
            record["error"] = {"code": failed.error_code, "message": failed.error}
        if first.text is not None:  # an output that is not what was asked for is kept beside its error
            body = self._body(samples, digest)
            record["response"] = {"status_code": 200, "request_id": digest, "body": body}
        return record

    def _body(self, samples: list[OutputRow], digest: str) -> dict[str, Any]:
        plain = samples[0].row.batch_url == COMPLETIONS_URL
        prompt_tokens = samples[0].prompt_tokens or 0
        output_tokens = sum(sample.output_tokens for sample in samples)
        return {
            "id": f"{'cmpl' if plain else 'chatcmpl'}-{digest}",
            "object": "text_completion" if plain else "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [(self._completion if plain else self._chat)(sample) for sample in samples],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": output_tokens,
                "total_tokens": prompt_tokens + output_tokens,
                **_reasoning_usage(samples),
            },
        }

    def _chat(self, sample: OutputRow) -> dict[str, Any]:
        logprobs = None
        if sample.logprobs is not None:
            logprobs = {"content": [self._position(position) for position in sample.logprobs], "refusal": None}
        return {
            "index": sample.sample,
            "message": {
                "role": "assistant",
                "content": sample.text,
                **_reasoning(sample),
                **_tool_calls(sample),
                "refusal": None,
            },
            "logprobs": logprobs,
            "finish_reason": "tool_calls" if sample.tool_calls and sample.finish_reason == "stop" else sample.finish_reason,
        }

    def _position(self, position: TokenLogprobs) -> dict[str, Any]:
        top = [self._token(token_id, logprob) for token_id, logprob in position.top]
        return {**self._token(position.token_id, position.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        token = self._token_text(token_id)
        known = None if token.bytes is None else list(token.bytes)
        return {"token": token.text, "logprob": finite_logprob(logprob), "bytes": known}

    def _completion(self, sample: OutputRow) -> dict[str, Any]:
        return {
            "index": sample.sample,
            "text": sample.text,
            "logprobs": None if sample.logprobs is None else self._completion_logprobs(sample.logprobs, sample.text or ""),
            "finish_reason": sample.finish_reason,
        }

    def _completion_logprobs(self, positions: list[TokenLogprobs], text: str) -> dict[str, Any]:
        tokens = [self._token_text(position.token_id) for position in positions]
        return {
            "tokens": [token.key for token in tokens],
            "token_logprobs": [finite_logprob(position.logprob) for position in positions],
            "top_logprobs": [self._top(position) for position in positions],
            "text_offset": _text_offsets(tokens, text),
        }

    def _top(self, position: TokenLogprobs) -> dict[str, float]:
        """Of tokens with the same bytes, the likeliest."""
        top: dict[str, float] = {}
        for token_id, logprob in position.top:  # best first
            top.setdefault(self._token_text(token_id).key, finite_logprob(logprob))
        return top


def _reasoning(sample: OutputRow) -> dict[str, str]:
    """As DeepSeek's API, vLLM and SGLang have it."""
    return {} if sample.reasoning is None else {"reasoning_content": sample.reasoning}


def _tool_calls(sample: OutputRow) -> dict[str, Any]:
    """The ids are as Mistral's templates want them, nine letters and digits: others take any."""
    if not sample.tool_calls:
        return {}
    key = f"{sample.row.number} {sample.row.columns.get('id')} {sample.sample}"
    calls = [
        {"id": blake2b(f"{key} {number}".encode("utf-8", "replace")).hexdigest()[:9], "type": "function", "function": call}
        for number, call in enumerate(sample.tool_calls)
    ]
    return {"content": sample.text or None, "tool_calls": calls}


def _reasoning_usage(samples: list[OutputRow]) -> dict[str, Any]:
    if all(sample.reasoning is None for sample in samples):
        return {}
    return {"completion_tokens_details": {"reasoning_tokens": sum(sample.reasoning_tokens for sample in samples)}}


def _text_offsets(tokens: list[TokenText], text: str) -> list[int]:
    """Where in the text each token begins, in characters; the text may lack the space that its first token begins with."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, length = [], 0
    for token in tokens:
        offsets.append(length)
        length += len(token.text if token.bytes is None else decoder.decode(token.bytes))
    dropped = int(bool(tokens) and tokens[0].text.startswith(" ") and not text.startswith(" "))
    return [max(0, offset - dropped) for offset in offsets]


def finite_logprob(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else IMPOSSIBLE_LOGPROB
