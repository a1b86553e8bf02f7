"""Outputs of the engine: one RequestOutput for each request, when it has finished."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from pagecli.errors import ErrorCode

FinishReason = Literal["stop", "length", "error"]


class TokenLogprobs(NamedTuple):
    """The chosen token of one position, and the most likely ones (token id, log probability), best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A given token under the model: its log probability (no penalties, no temperature), the most likely ones best first."""

    token_id: int
    logprob: float
    is_greedy: bool  # the most likely token, the first of equal ones
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """One continuation of the prompt; `sample` 0 is the first or best.

    `token_ids` includes an end or stop token; `text` has neither it nor the stop string. `error` is set beside the text where
    that does not satisfy what the row asked for.
    """

    sample: int
    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprobs] | None = None
    score: float | None = None  # of a beam search's hypothesis, or the mean log probability that best_of ranks by
    error: str | None = None
    error_code: ErrorCode | None = None
    attempts: int = 1  # of its request, until it was there
    embedding: list[float] | None = None  # of the prompt, where nothing is generated
    token_scores: list[TokenScore] | None = None  # of a given continuation: one for each of its tokens
    reasoning: str | None = None  # what a reasoning model thought before its answer, which then is `text`
    reasoning_tokens: int = 0  # of token_ids, markers included


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A finished request; `error` is set, and `sequences` empty, if it could not be run."""

    request_id: int
    num_prompt_tokens: int
    sequences: tuple[SequenceOutput, ...]
    error: str | None = None
    error_code: ErrorCode | None = None  # None beside an error: ENGINE_FAILURE
    prompt_scores: list[TokenScore] | None = None  # with prompt_logprobs: of the prompt's tokens from the second on
