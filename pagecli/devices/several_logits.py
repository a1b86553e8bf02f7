"""The results of a step in which chunks want logits of several tokens: scores of given tokens, and choices beside drafts.

Its rows of logits (or most likely tokens), in order: of each of the plan's answered chunks, `num_logits`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.outputs import TokenScore
from pagecli.core.step_plan import (
    Chunk,
    DraftResult,
    DraftSpec,
    SampledToken,
    SampleSpec,
    ScoreResult,
    ScoreSpec,
    StepPlan,
    StepResult,
)
from pagecli.devices.cpu import sampler
from pagecli.devices.step_masks import RowMasks


def needs_no_logits(plan: StepPlan) -> bool:
    """Whether every row's most likely token is all that the step wants."""
    return all(
        not isinstance(chunk.wanted, ScoreSpec) and all(spec.is_argmax for spec in chunk.specs) for chunk in plan.answered
    )


def specs_of_rows(plan: StepPlan) -> list[tuple[SampleSpec, ...]]:
    """The choices to make from each row; none from one that only scores."""
    specs: list[tuple[SampleSpec, ...]] = []
    for chunk in plan.answered:
        if isinstance(chunk.wanted, DraftSpec):
            specs += [(spec,) for spec in chunk.specs]
        else:
            specs += [()] * (chunk.num_logits - 1) + [chunk.specs]
    return specs


def choose(logits: Array, plan: StepPlan, masks: RowMasks | None = None) -> list[StepResult]:
    """The results from logits[R, vocab], float32."""
    specs = specs_of_rows(plan)
    rows = [row for row, of_row in enumerate(specs) if of_row]
    of_rows = None if masks is None else masks.of_rows(rows)
    # of copies: penalties change them
    chosen = iter(sampler.choose(logits[rows], [specs[row] for row in rows], None, of_rows) if rows else [])
    return [_result(chunk, logits[first:], chosen) for chunk, first in _first_rows(plan)]


def same_for_all(token_ids: Array, plan: StepPlan) -> list[StepResult]:
    """The results from token_ids[R], the most likely token of each row."""
    results: list[StepResult] = []
    for chunk, first in _first_rows(plan):
        row = token_ids[first : first + chunk.num_logits].tolist()
        if chunk.wanted is not None:
            results.append(DraftResult(row))
        else:
            results.append(row[0] if len(chunk.specs) == 1 else (SampledToken(row[0]),) * len(chunk.specs))
    return results


def _first_rows(plan: StepPlan) -> Iterator[tuple[Chunk, int]]:
    """Each answered chunk, and the first of its rows."""
    first = 0
    for chunk in plan.answered:
        yield chunk, first
        first += chunk.num_logits


def _result(chunk: Chunk, logits: Array, chosen: Iterator[Any]) -> StepResult:
    wanted = chunk.wanted
    if wanted is None:
        return next(chosen)
    if isinstance(wanted, DraftSpec):
        return DraftResult([next(chosen) for _ in chunk.specs])
    num_scores = len(wanted.token_ids)
    scores = [scores_of(row, (token,), wanted.num_top)[0] for row, token in zip(logits, wanted.token_ids, strict=False)]
    choices = scores_of(logits[num_scores], wanted.choice_ids, wanted.num_top) if wanted.choice_ids else []
    return ScoreResult(scores, choices, next(chosen) if chunk.specs else None)


@np.errstate(all="ignore")
def scores_of(row: Array, token_ids: tuple[int, ...], num_top: int) -> list[TokenScore]:
    """The scores of several tokens from one row[vocab] of logits; NaN where the row has NaN or +inf, or nothing but -inf."""
    logprobs = sampler.log_softmax(row)
    greedy = int(row.argmax())
    top = sampler.most_likely(logprobs, num_top)
    return [TokenScore(token_id, float(logprobs[token_id]), token_id == greedy, top) for token_id in token_ids]
