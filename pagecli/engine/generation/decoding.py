"""Decoding of one sequence: the specs of its next choice, the effect of a choice (a token, forked samples, beams), and the
output of a finished request: which of its sequences, in which order, with which text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pagecli.core.outputs import RequestOutput, SequenceOutput, TokenLogprobs
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import NO_TOKEN, BeamCandidates, SampledToken, SampleSpec, StepResult
from pagecli.engine.request import Request, Sequence
from pagecli.errors import ErrorCode, RowError

if TYPE_CHECKING:
    from pagecli.engine.constraints.sequence_constraint import SequenceConstraint
    from pagecli.kv.memory import KVMemory

Decode = Callable[[list[int]], str]


@dataclass(frozen=True, slots=True)
class FinishCheck:
    """Sets `finish_reason` on a sequence whose last token ends it."""

    eos_token_ids: frozenset[int]

    def __call__(self, sequence: Sequence) -> None:
        params = sequence.request.params
        token_id = sequence.token_ids[-1]
        too_early = sequence.num_output_tokens < params.min_tokens
        search = sequence.stop_search
        if (search is not None and search.extend(sequence.output_token_ids, ignore=too_early)) or (
            not too_early and self.ends(token_id, sequence)
        ):
            sequence.finish_reason = "stop"
        elif sequence.num_output_tokens >= params.max_tokens:
            sequence.finish_reason = "length"

    def ends(self, token_id: int, sequence: Sequence) -> bool:
        """Whether this token is an end or stop token of the sequence's request."""
        params = sequence.request.params
        return token_id in params.stop_token_ids or (not params.ignore_eos and token_id in self.eos_token_ids)

    def end_ids(self, params: SamplingParams) -> frozenset[int]:
        """Every end and stop token of a request with these parameters."""
        return frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.eos_token_ids)


def specs(sequence: Sequence, finish_check: FinishCheck) -> tuple[SampleSpec, ...]:
    """The choices to make from the sequence's next logits: one token, one for each sample at the fork, or a beam's candidates.

    Kept in `sequence.specs` when it will stay the same to the sequence's end.
    """
    request, params = sequence.request, sequence.request.params
    forbidden: tuple[int, ...] = ()
    if sequence.num_output_tokens < params.min_tokens and sequence.constraint is None:  # else the mask forbids them
        forbidden = tuple(finish_check.end_ids(params))
    num_candidates = request.beam_search.num_candidates if request.beam_search else 0
    first_fork = not request.forked and request.beam_search is None
    samples = range(params.num_sequences) if first_fork else (sequence.sample,)
    made = tuple(
        SampleSpec(
            params,
            request.row_key,
            i,
            sequence.token_ids,
            request.num_prompt_tokens,
            forbidden,
            num_candidates,
            sequence.constraint,
        )
        for i in samples
    )
    if len(made) == 1 and not forbidden:
        sequence.specs = made
    return made


def apply(sequence: Sequence, result: StepResult, kv: "KVMemory", finish_check: FinishCheck) -> None:
    """Carry the choice out on the sequence and its request: append, fork, finish, or fail with all its sequences."""
    request = sequence.request
    if request.failure is not None:  # by a sibling in the same step
        return
    if type(result) is TokenLogprobs:
        sequence.logprobs.append(result)
        sequence.sum_logprob += result.logprob
        result = result.token_id
    if type(result) is int and result != NO_TOKEN:
        request.forked = True
        sequence.token_ids.append(result)
        is_checked = sequence.stop_search is not None or sequence.constraint is not None
        if is_checked or result in request.end_ids or len(sequence.token_ids) >= request.max_num_tokens:
            finish_if_ended(sequence, finish_check)
        return
    if _has_no_token(result):
        fail(sequence, f"output token {sequence.num_output_tokens + 1}")
        return
    if isinstance(result, BeamCandidates):
        assert request.beam_search is not None
        request.beam_search.offer(sequence, result)
        _advance_beams(request, kv)
        return
    assert isinstance(result, tuple)
    assert not isinstance(result, TokenLogprobs)
    members = [sequence]
    for sample in range(1, len(result)):
        members.append(fork(sequence, sample, kv))
    request.forked = True
    for member, token in zip(members, result, strict=True):
        member.token_ids.append(_record_logprobs(member, token))
        finish_if_ended(member, finish_check)


def finish_if_ended(sequence: Sequence, finish_check: FinishCheck) -> None:
    """Take the sequence out of its request's live ones if its last token ends it."""
    finish_check(sequence)
    if sequence.constraint is not None:
        _follow(sequence, sequence.constraint, finish_check)
    if sequence.finish_reason is not None:
        leave(sequence)


def _follow(sequence: Sequence, constraint: "SequenceConstraint", finish_check: FinishCheck) -> None:
    """After a token was appended and checked: advance the constraint, and append the tokens that are forced now.

    Those were not computed, so the next step runs them as a chunk of a prompt.
    """
    while True:
        last = sequence.token_ids[-1]
        if sequence.finish_reason != "stop" or not finish_check.ends(last, sequence):
            constraint.consume(last)
            if constraint.is_complete:
                sequence.finish_reason = "stop"
        forced = constraint.take_forced() if sequence.finish_reason is None else None
        if forced is None:
            return
        sequence.token_ids.append(forced)
        finish_check(sequence)


def leave(sequence: Sequence) -> None:
    """Move a sequence that has finished out of its request's live ones."""
    request = sequence.request
    request.live.remove(sequence)
    request.done.append(sequence)
    request.leaving.append(sequence)


def _has_no_token(result: StepResult) -> bool:
    """Whether the logits were such that no token can be chosen from them."""
    if isinstance(result, int):
        return result == NO_TOKEN
    if isinstance(result, BeamCandidates):
        return not result.token_ids
    return (
        isinstance(result, tuple)
        and not isinstance(result, TokenLogprobs)
        and any(token.token_id == NO_TOKEN for token in result)
    )


def fail(sequence: Sequence, token: str) -> None:
    """End the request without output: the model computed logits from which no token can be chosen, or given a probability."""
    request = sequence.request
    request.failure = RowError(
        f"the model's logits for {token} are not finite (NaN or infinity)",
        "are the weights damaged, or too large for this --dtype?",
        ErrorCode.LOGITS_NOT_FINITE,
    )
    request.leaving += request.live
    request.live.clear()


def _record_logprobs(sequence: Sequence, token: SampledToken) -> int:
    """Record what else is known of a chosen token; returns its id."""
    if token.logprobs is not None:
        sequence.logprobs.append(token.logprobs)
        sequence.sum_logprob += token.logprobs.logprob
    return token.token_id


def fork(parent: Sequence, sample: int, kv: "KVMemory") -> Sequence:
    """A new live sequence of the request that shares all computed slots with its parent."""
    child = parent.fork(sample)
    kv.fork(parent.seq_id, child.seq_id, parent.num_computed)
    parent.request.live.append(child)
    return child


def _advance_beams(request: Request, kv: "KVMemory") -> None:
    """When all beams have offered: fork those with several successors, drop those with none, end the search if it has ended."""
    search = request.beam_search
    assert search is not None
    continuations = search.advance(request.live)
    if continuations is None:
        return
    request.forked = True
    parents = list(request.live)
    taken: set[int] = set()
    beams = []
    for c in continuations:
        beams.append(fork(c.parent, 0, kv) if c.parent.seq_id in taken else c.parent)
        taken.add(c.parent.seq_id)
    for beam, c in zip(beams, continuations, strict=True):  # after all forks: a parent becomes its own first successor
        beam.token_ids.append(c.token_id)
        beam.sum_logprob = c.score
        if beam.constraint is not None:
            beam.constraint.consume(c.token_id)
    request.leaving += [parent for parent in parents if parent.seq_id not in taken]
    request.live[:] = beams


def start_beam_search(request: Request, finish_check: FinishCheck) -> None:
    """Make the request a beam search, whose width is above 1."""
    from pagecli.engine.generation.beam_search import BeamSearch

    params = request.params
    request.beam_search = BeamSearch(
        params.beam_width, params.length_penalty, params.early_stopping, finish_check.end_ids(params), params.max_tokens
    )


def output_of(request: Request, decode: Decode, finish_check: FinishCheck) -> RequestOutput:
    """Beam search: the n best hypotheses. best_of: the n samples with the highest mean log probability. Else all, in order."""
    if request.failure is not None:
        failure = request.failure
        return RequestOutput(request.request_id, request.num_prompt_tokens, (), failure.one_line, failure.code)
    n = request.params.n
    if request.beam_search is not None:
        sequences = [_hypothesis(request, i, decode) for i in range(min(n, len(request.beam_search.hypotheses)))]
    else:
        ranked = sorted(request.done, key=lambda s: s.sample)
        if request.params.best_of is not None:
            ranked.sort(key=lambda s: -_mean_logprob(s))
        sequences = [_sample(s, i, decode, finish_check) for i, s in enumerate(ranked[:n])]
    return RequestOutput(request.request_id, request.num_prompt_tokens, tuple(sequences), prompt_scores=request.prompt_scores)


def _mean_logprob(sequence: Sequence) -> float:
    return sequence.sum_logprob / sequence.num_output_tokens


def _sample(sequence: Sequence, sample: int, decode: Decode, finish_check: FinishCheck) -> SequenceOutput:
    params, token_ids = sequence.request.params, sequence.output_token_ids
    ended_by_token = sequence.finish_reason == "stop" and finish_check.ends(token_ids[-1], sequence)
    search = sequence.stop_search
    if search is not None and search.found_at is not None:
        text = search.text_before_stop(token_ids)
    else:
        text = decode(token_ids[:-1] if ended_by_token else token_ids)
    assert sequence.finish_reason is not None
    logprobs = sequence.logprobs if params.logprobs is not None else None
    score = _mean_logprob(sequence) if params.best_of is not None else None
    return SequenceOutput(sample, token_ids, text, sequence.finish_reason, logprobs, score)


def _hypothesis(request: Request, rank: int, decode: Decode) -> SequenceOutput:
    assert request.beam_search is not None
    best = request.beam_search.hypotheses[rank]
    text = decode(best.output_ids[:-1] if best.ended else best.output_ids)
    return SequenceOutput(rank, best.output_ids, text, "stop" if best.ended else "length", score=best.score)
