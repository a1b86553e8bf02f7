"""Choosing the next token of every row from its logits.

Order, as in transformers: penalties, then min_tokens' mask, temperature, top-k, top-p, min-p, then one draw by the inverse of
the cumulative distribution. Each row is treated by operations that see that row alone, so a token never depends on the batch.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pagecli import kernels
from pagecli.engine.outputs import TokenLogprobs
from pagecli.engine.step_plan import BeamCandidates, SampledToken, StepResult
from pagecli.runner import random_draws

if TYPE_CHECKING:
    from pagecli.engine.step_plan import SampleSpec

NUM_CANDIDATES = 1024  # most likely tokens looked at first for top-p and min-p; all of them if they do not hold enough mass


def choose(logits: torch.Tensor, specs: "list[tuple[SampleSpec, ...]]") -> list[StepResult]:
    """What each row of logits[R, vocab] (float32; may change in place) gives: a token for each of its specs, or candidates."""
    results: list[StepResult] = [()] * len(specs)
    sampled = [row for row, (first, *_) in enumerate(specs) if first.num_candidates == 0]
    rows = [row for row in sampled for _ in specs[row]]
    tokens = iter(
        sample(logits if rows == list(range(len(logits))) else logits[rows], [s for row in sampled for s in specs[row]])
    )
    for row in sampled:
        results[row] = tuple(next(tokens) for _ in specs[row])
    for row, (first, *_) in enumerate(specs):
        if first.num_candidates > 0:
            results[row] = _candidates(logits[row], first)
    return results


def _candidates(logits: torch.Tensor, spec: "SampleSpec") -> BeamCandidates:
    """A beam's most likely next tokens; penalties act on log probabilities here, as in transformers' beam search."""
    logprobs = torch.log_softmax(logits, dim=-1)
    _apply_penalties(logprobs, spec)
    if spec.forbidden_ids:
        logprobs[list(spec.forbidden_ids)] = float("-inf")
    values, ids = logprobs.topk(min(spec.num_candidates, logprobs.shape[0]))
    return BeamCandidates(ids.tolist(), values.tolist())


def sample(logits: torch.Tensor, specs: "list[SampleSpec]") -> list[SampledToken]:
    """One token for each row of logits[R, vocab] (float32; changed in place where penalties apply)."""
    wanted = [row for row, spec in enumerate(specs) if spec.params.logprobs is not None or spec.params.best_of is not None]
    raw_logprobs = {row: torch.log_softmax(logits[row], dim=-1) for row in wanted}
    for row, spec in enumerate(specs):
        _apply_penalties(logits[row], spec)
        if spec.forbidden_ids:
            logits[row, list(spec.forbidden_ids)] = float("-inf")
    token_ids = _choose(logits, specs)
    return [
        SampledToken(token_id, _logprobs(raw_logprobs[row], token_id, spec) if row in raw_logprobs else None)
        for row, (token_id, spec) in enumerate(zip(token_ids, specs, strict=True))
    ]


def _apply_penalties(row: torch.Tensor, spec: "SampleSpec") -> None:
    """Repetition penalty over prompt and output (Keskar et al., 2019), presence and frequency over the output, sparsely."""
    params = spec.params
    if params.repetition_penalty != 1.0:
        seen = torch.from_numpy(np.unique(np.array(spec.known_token_ids)))
        values = row[seen]
        row[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
        output = np.array(spec.known_token_ids[spec.num_prompt_tokens :], dtype=np.int64)
        ids, counts = np.unique(output, return_counts=True)
        penalty = params.presence_penalty + params.frequency_penalty * torch.from_numpy(counts).float()
        row[torch.from_numpy(ids)] -= penalty


def _choose(logits: torch.Tensor, specs: "list[SampleSpec]") -> list[int]:
    if all(spec.params.greedy for spec in specs):
        return _most_likely(logits)
    chosen = [0] * len(specs)
    greedy = [row for row, spec in enumerate(specs) if spec.params.greedy]
    if greedy:
        for row, token_id in zip(greedy, _most_likely(logits[greedy]), strict=True):
            chosen[row] = token_id
    groups: dict[int, list[int]] = {}
    for row, spec in enumerate(specs):
        if not spec.params.greedy:
            groups.setdefault(_num_candidates(spec, logits.shape[1]), []).append(row)
    for num_candidates, rows in groups.items():
        token_ids = _draw_group(logits, rows, specs, num_candidates)
        for row, token_id in zip(rows, token_ids, strict=True):
            chosen[row] = token_id
    return chosen


def _most_likely(logits: torch.Tensor) -> list[int]:
    token_ids = torch.empty(logits.shape[0], dtype=torch.int64)
    kernels.argmax(token_ids, logits)
    return token_ids.tolist()


def _num_candidates(spec: "SampleSpec", vocab_size: int) -> int:
    """How many of the most likely tokens the row's filters need to see; 0: none has to be sorted."""
    params = spec.params
    if params.top_k > 0:
        return min(params.top_k, vocab_size)
    if params.top_p < 1.0 or params.min_p > 0.0:
        return min(NUM_CANDIDATES, vocab_size)
    return 0


def _draw_group(logits: torch.Tensor, rows: list[int], specs: "list[SampleSpec]", num_candidates: int) -> list[int]:
    """Draw for rows that look at the same number of candidates."""
    temperatures = torch.tensor([specs[row].params.temperature for row in rows]).unsqueeze(1)
    scaled = logits[rows] / temperatures
    draws = [random_draws.uniform(specs[r].params.seed, specs[r].row_key, specs[r].sample, specs[r].position) for r in rows]
    probs = torch.softmax(scaled, dim=-1).double()
    if num_candidates == 0:
        return _invert(probs.cumsum(dim=-1), torch.tensor(draws, dtype=torch.float64)).tolist()
    token_ids = []
    top_probs, top_ids = probs.topk(num_candidates, dim=-1)
    for i, row in enumerate(rows):
        row_probs, row_ids = top_probs[i], top_ids[i]
        if not _enough(row_probs, specs[row]):
            row_probs, row_ids = probs[i].sort(descending=True, stable=True)
        kept = _filter(row_probs, specs[row])
        at = _invert(kept.cumsum(dim=-1).unsqueeze(0), torch.tensor([draws[i]], dtype=torch.float64))
        token_ids.append(int(row_ids[at]))
    return token_ids


def _enough(top_probs: torch.Tensor, spec: "SampleSpec") -> bool:
    """Whether everything top-p and min-p would keep is among these most likely tokens (top-k wants no others)."""
    params = spec.params
    if params.top_k > 0:
        return True
    enough_mass = params.top_p < 1.0 and float(top_probs.cumsum(dim=-1)[-1]) >= params.top_p
    below_min_p = params.min_p > 0.0 and float(top_probs[-1]) < params.min_p * float(top_probs[0])
    return enough_mass or below_min_p


def _filter(probs: torch.Tensor, spec: "SampleSpec") -> torch.Tensor:
    """probs, best first, with what top-p and min-p exclude cut off; top-p counts in the mass that top-k left."""
    params = spec.params
    if params.top_p < 1.0:
        cumulative = probs.cumsum(dim=-1)
        mass = float(cumulative[-1]) if params.top_k > 0 else 1.0
        before = cumulative - probs
        probs = probs[: max(1, int((before < params.top_p * mass).sum()))]
    if params.min_p > 0.0:
        probs = probs[: max(1, int((probs >= params.min_p * probs[0]).sum()))]
    return probs


def _invert(cumulative: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Index at which each row of cumulative[R, n] (not normalized) passes draws[R] in [0, 1) of its total."""
    targets = (draws * cumulative[:, -1]).unsqueeze(1)
    index = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    return index.clamp_(max=cumulative.shape[1] - 1)


def _logprobs(row: torch.Tensor, token_id: int, spec: "SampleSpec") -> TokenLogprobs:
    """Log probabilities under the model itself: before penalties, temperature and filters."""
    num_top = spec.params.logprobs or 0
    values, ids = row.topk(min(num_top, row.shape[0]))
    return TokenLogprobs(token_id, float(row[token_id]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
