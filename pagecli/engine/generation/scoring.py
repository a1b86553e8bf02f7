"""Log probabilities of given tokens: those of a prompt (prompt_logprobs), or of continuations that a request is to score.

    prompt [ a b c ], choices [ x y ] [ z ]        the prompt is computed once, then its sequence forks as samples do
    logits of    c        ->  scores of x and z    (z is complete)
    logits of    c x      ->  score of y

A token's score comes from the logits of the token before it, so the last token of a continuation is never computed. What the
prefix cache holds has no logits: a sequence takes over no more of it than what lies before the first score it still needs.
"""

import math
from typing import TYPE_CHECKING

from pagecli.core.outputs import RequestOutput, SequenceOutput, TokenScore
from pagecli.core.step_plan import Chunk, ScoreResult, ScoreSpec, StepResult
from pagecli.engine.generation import decoding
from pagecli.engine.generation.decoding import FinishCheck
from pagecli.engine.request import Request, Scoring, Sequence

if TYPE_CHECKING:
    from pagecli.kv.memory import KVMemory


def start(request: Request) -> None:
    """Make a new request's first sequence one that is scored, if its parameters or its choices say so."""
    prompt, sequence, choices = request.prompt_token_ids, request.live[0], request.choices
    if len(choices) == 1:
        sequence.token_ids += choices[0][:-1]
        sequence.scoring = Scoring(prompt + choices[0], len(prompt), request.params.logprobs or 0)
    elif choices:
        first_ids = tuple(choice[0] for choice in choices)
        sequence.scoring = Scoring(prompt, len(prompt), request.params.logprobs or 0, first_ids)
    elif request.params.prompt_logprobs is not None:
        request.prompt_scores = []
        if len(prompt) > 1:
            sequence.scoring = Scoring(prompt, 1, request.params.prompt_logprobs, scores=request.prompt_scores)


def with_wanted(sequence: Sequence, chunk: Chunk) -> Chunk:
    """The sequence's chunk, with what it is to score."""
    scoring = sequence.scoring
    if scoring is None:
        return chunk
    specs = () if sequence.request.choices else chunk.specs
    num_logits = scoring.num_logits(chunk.start, len(chunk.token_ids))
    if num_logits == 0:
        return chunk._replace(specs=specs)
    first = max(chunk.start, scoring.next - 1)
    assert first == scoring.next - 1, "tokens to score were taken from the cache"
    token_ids = scoring.given_ids[first + 1 : first + 1 + num_logits]
    reaches_choices = scoring.choice_ids and chunk.context_len == len(scoring.given_ids)
    choice_ids = scoring.choice_ids if reaches_choices else ()
    return chunk._replace(specs=specs, wanted=ScoreSpec(first - chunk.start, token_ids, scoring.num_top, choice_ids))


def apply(sequence: Sequence, result: StepResult, kv: "KVMemory", finish_check: FinishCheck) -> None:
    """As decoding.apply, of a step with scores."""
    if not isinstance(result, ScoreResult):
        return decoding.apply(sequence, result, kv, finish_check)
    scoring, request = sequence.scoring, sequence.request
    assert scoring is not None
    if any(not math.isfinite(score.logprob) for score in (*result.scores, *result.choices)):
        decoding.fail(sequence, f"token {scoring.next + 1} of prompt and continuation")
        return
    scoring.scores += result.scores
    if result.choices:
        _fork(sequence, result.choices, kv)
    elif request.choices and scoring.next == len(scoring.given_ids):
        _finish(sequence)
    elif scoring.next == len(scoring.given_ids):
        sequence.scoring = None
    if result.chosen is not None:
        decoding.apply(sequence, result.chosen, kv, finish_check)


def _fork(parent: Sequence, scores: list[TokenScore], kv: "KVMemory") -> None:
    """The prompt is computed: a sequence for each choice, with the score of its first token."""
    request = parent.request
    members = [parent, *(decoding.fork(parent, i, kv) for i in range(1, len(scores)))]
    request.forked = True
    for member, choice, score in zip(members, request.choices, scores, strict=True):
        prompt = request.prompt_token_ids
        member.scoring = Scoring(prompt + choice, len(prompt), request.params.logprobs or 0, scores=[score])
        member.token_ids += choice[:-1]
        if len(choice) == 1:
            _finish(member)


def _finish(sequence: Sequence) -> None:
    sequence.finish_reason = "length"
    decoding.leave(sequence)


def output_of(request: Request, decode: decoding.Decode) -> RequestOutput:
    """A finished request's choices, in order: `score` is the sum of their tokens' log probabilities."""
    sequences = []
    for sequence in sorted(request.done, key=lambda s: s.sample):
        assert sequence.scoring is not None
        choice, scores = request.choices[sequence.sample], sequence.scoring.scores
        total = math.fsum(score.logprob for score in scores)
        sequences.append(SequenceOutput(sequence.sample, choice, decode(choice), "length", score=total, token_scores=scores))
    return RequestOutput(request.request_id, request.num_prompt_tokens, tuple(sequences))
