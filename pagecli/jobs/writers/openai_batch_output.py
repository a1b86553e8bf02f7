"""Results in OpenAI's batch output format: one line for a request, with a chat.completion or text_completion, or an error.

Format: platform.openai.com/docs/api-reference/batch/request-output. Ids are made of the row, and `created` is one time for
the whole job, so that a job that is run again or resumed writes the same bytes.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from pagecli.core.outputs import TokenLogprobs
from pagecli.jobs.readers.openai_batch_input import COMPLETIONS_URL
from pagecli.jobs.rows.output_row import OutputRow

IMPOSSIBLE_LOGPROB = -9999.0  # what the format has for a token that could not be chosen


class TokenTexts:
    """The text of a token, once the tokenizer is there; before that, and without one, the token's id in words."""

    def __init__(self) -> None:
        self._decode: Callable[[list[int]], str] | None = None
        self._text = functools.lru_cache(maxsize=1 << 16)(self._decoded)

    def bind(self, decode: Callable[[list[int]], str]) -> None:
        """`decode` is to keep special tokens."""
        self._decode = decode
        self._text.cache_clear()

    def __call__(self, token_id: int) -> str:
        return self._text(token_id)

    def _decoded(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._decode is None else self._decode([token_id])


class BatchEncoder:
    """Output rows -> lines of a batch output file. A row of several samples gives its line with the last of them."""

    def __init__(self, model: str, created: int, token_text: Callable[[int], str]) -> None:
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
        digest = hashlib.blake2b(f"{first.row.number} {custom_id}".encode("utf-8", "replace"), digest_size=16).hexdigest()
        record: dict[str, Any] = {"id": f"batch_req_{digest}", "custom_id": custom_id, "response": None, "error": None}
        if first.error is not None:
            record["error"] = {"code": first.error_code, "message": first.error}
        else:
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
            },
        }

    def _chat(self, sample: OutputRow) -> dict[str, Any]:
        logprobs = None
        if sample.logprobs is not None:
            logprobs = {"content": [self._position(position) for position in sample.logprobs], "refusal": None}
        return {
            "index": sample.sample,
            "message": {"role": "assistant", "content": sample.text, "refusal": None},
            "logprobs": logprobs,
            "finish_reason": sample.finish_reason,
        }

    def _position(self, position: TokenLogprobs) -> dict[str, Any]:
        top = [self._token(token_id, logprob) for token_id, logprob in position.top]
        return {**self._token(position.token_id, position.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._token_text(token_id)
        whole = "\ufffd" not in text  # else a part of a character, whose bytes are not known here
        return {"token": text, "logprob": finite_logprob(logprob), "bytes": list(text.encode("utf-8")) if whole else None}

    def _completion(self, sample: OutputRow) -> dict[str, Any]:
        return {
            "index": sample.sample,
            "text": sample.text,
            "logprobs": None if sample.logprobs is None else self._completion_logprobs(sample.logprobs),
            "finish_reason": sample.finish_reason,
        }

    def _completion_logprobs(self, positions: list[TokenLogprobs]) -> dict[str, Any]:
        tokens = [self._token_text(position.token_id) for position in positions]
        offsets = [0]
        for token in tokens[:-1]:
            offsets.append(offsets[-1] + len(token))
        return {
            "tokens": tokens,
            "token_logprobs": [finite_logprob(position.logprob) for position in positions],
            "top_logprobs": [
                {self._token_text(token_id): finite_logprob(logprob) for token_id, logprob in position.top}
                for position in positions
            ],
            "text_offset": offsets[: len(tokens)],
        }


def finite_logprob(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else IMPOSSIBLE_LOGPROB
