"""From a finished request to what leaves the engine: which of its sequences are returned, in which order, with which text."""

from collections.abc import Callable

from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.engine.generation.stopping import FinishCheck
from pagecli.engine.request import Request, Sequence

Decode = Callable[[list[int]], str]


def build(request: Request, decode: Decode, finish_check: FinishCheck) -> RequestOutput:
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
    return RequestOutput(request.request_id, request.num_prompt_tokens, tuple(sequences))


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
