"""Choosing the next token of every row from its logits.

Order, as in transformers: penalties and the bans of repeated tokens, then min_tokens' and the row's mask, temperature, top-k,
top-p, min-p, then one draw (`kernels.sample`).
Each row is treated by operations that see that row alone, so a token never depends on the batch.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pagecli.core.arrays import Array
from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import NO_TOKEN, BeamCandidates, SampledToken, StepResult
from pagecli.devices.cpu import kernels
from pagecli.devices.random_draws import DrawSettings, KeptSettings

if TYPE_CHECKING:
    from pagecli.core.step_plan import SampleSpec
    from pagecli.devices.step_masks import RowMasks


@np.errstate(all="ignore")
def choose(
    logits: Array,
    specs: "list[tuple[SampleSpec, ...]]",
    kept: KeptSettings | None = None,
    masks: "RowMasks | None" = None,
) -> list[StepResult]:
    """What each row of logits[R, vocab] (float32; may change in place) gives: a token for each of its specs, or candidates.

    `kept`: the settings of the step before, which are used again where its specs are the same.
    """
    if all(len(row) == 1 and row[0].is_plain for row in specs):
        if masks is not None:
            kernels.restrict_logits(logits, masks.words, masks.mask_of)
        return list(_choose(logits, (kept or KeptSettings()).of(specs)))
    results: list[StepResult] = [()] * len(specs)
    sampled = [row for row, (first, *_) in enumerate(specs) if first.num_candidates == 0]
    rows = [row for row in sampled for _ in specs[row]]
    tokens = iter(
        sample(
            logits if rows == list(range(len(logits))) else logits[rows],
            [s for row in sampled for s in specs[row]],
            None if masks is None else masks.of_rows(rows),
        )
    )
    for row in sampled:
        results[row] = tuple(next(tokens) for _ in specs[row])
    for row, (first, *_) in enumerate(specs):
        if first.num_candidates > 0:
            results[row] = _candidates(logits[row], first, None if masks is None else masks.row(row))
    return results


def _candidates(logits: Array, spec: "SampleSpec", mask: Array | None) -> BeamCandidates:
    """A beam's most likely next tokens; penalties act on log probabilities here, as in transformers' beam search."""
    logprobs = log_softmax(logits)  # all NaN where no token can be chosen
    _apply_penalties(logprobs, spec)
    if spec.forbidden_ids:
        logprobs[list(spec.forbidden_ids)] = float("-inf")
    if mask is not None:
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(logprobs)]
        logprobs[allowed == 0] = float("-inf")
    ids = _largest(logprobs, spec.num_candidates)
    ids = ids[np.isfinite(logprobs[ids])]
    return BeamCandidates(ids.tolist(), logprobs[ids].tolist())


@np.errstate(all="ignore")
def sample(logits: Array, specs: "list[SampleSpec]", masks: "RowMasks | None" = None) -> list[SampledToken]:
    """One token for each row of logits[R, vocab] (float32; changed in place where penalties or masks apply)."""
    wanted = [row for row, spec in enumerate(specs) if spec.params.logprobs is not None or spec.params.best_of is not None]
    raw_logprobs = {row: log_softmax(logits[row]) for row in wanted}
    for row, spec in enumerate(specs):
        _apply_penalties(logits[row], spec)
        if spec.forbidden_ids:
            logits[row, list(spec.forbidden_ids)] = float("-inf")
    if masks is not None:
        kernels.restrict_logits(logits, masks.words, masks.mask_of)
    token_ids = _choose(logits, DrawSettings(specs))
    return [
        SampledToken(
            token_id, _logprobs(raw_logprobs[row], token_id, spec) if row in raw_logprobs and token_id != NO_TOKEN else None
        )
        for row, (token_id, spec) in enumerate(zip(token_ids, specs, strict=True))
    ]


def _apply_penalties(row: Array, spec: "SampleSpec") -> None:
    """Repetition penalty over prompt and output (Keskar et al., 2019), presence and frequency over the output, sparsely; no
    n-gram of prompt and output a second time (Paulus et al., 2017)."""
    params = spec.params
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.array(spec.known_token_ids))
        values = row[seen]
        row[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
        output = np.array(spec.known_token_ids[spec.num_prompt_tokens :], dtype=np.int64)
        ids, counts = np.unique(output, return_counts=True)
        penalty = params.presence_penalty + params.frequency_penalty * counts.astype(np.float32)
        row[ids] -= penalty
    if params.no_repeat_ngram_size > 0:
        row[ngram_ends(spec.known_token_ids, params.no_repeat_ngram_size)] = float("-inf")


def ngram_ends(token_ids: list[int], size: int) -> Array:
    """The tokens that followed wherever the last `size` - 1 tokens stood before."""
    known = np.array(token_ids, dtype=np.int64)
    if len(known) < size:
        return known[:0]
    windows = np.lib.stride_tricks.sliding_window_view(known, size)
    same = (windows[:, :-1] == known[len(known) - size + 1 :]).all(axis=1)
    return windows[same, -1]


def _choose(logits: Array, settings: DrawSettings) -> list[int]:
    token_ids = np.empty(logits.shape[0], dtype=np.int64)
    if settings.all_greedy:
        kernels.argmax(token_ids, logits)
        return token_ids.tolist()
    filters = settings.top_k.astype(np.int64), settings.top_p, settings.min_p
    kernels.sample(token_ids, logits, settings.temperatures, *filters, settings.draws())
    return token_ids.tolist()


def _logprobs(row: Array, token_id: int, spec: "SampleSpec") -> TokenLogprobs:
    """Log probabilities under the model itself: before penalties, temperature and filters."""
    return TokenLogprobs(token_id, float(row[token_id]), most_likely(row, spec.params.logprobs or 0))


def most_likely(row: Array, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` tokens of the highest log probabilities in row[vocab], and these, best first."""
    ids = _largest(row, count)
    return tuple(zip(ids.tolist(), row[ids].tolist(), strict=True))


def log_softmax(row: Array) -> Array:
    """In float32, its sum in float64. All NaN where row has NaN or +inf, or nothing but -inf."""
    shifted = row - row.max()
    return shifted - np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))


def _largest(row: Array, count: int) -> NDArray[np.int64]:
    """Where the `count` largest numbers of row[vocab] stand, largest first, of equal ones the first; NaN is the least."""
    count = min(count, len(row))
    if count == 0:
        return np.empty(0, np.int64)
    row = np.where(np.isnan(row), np.float32("-inf"), row)
    least = np.partition(row, len(row) - count)[len(row) - count]
    found = np.flatnonzero(row >= least)
    return found[np.argsort(-row[found], kind="stable")][:count]
