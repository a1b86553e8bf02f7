"""Choosing the next token of every row from its logits.

Order, as in transformers: penalties and the bans of repeated tokens, then min_tokens' and the row's mask, temperature, top-k,
top-p, min-p, then one draw (`kernels.sample`).
Each row is treated by operations that see that row alone, so a token never depends on the batch.
"""

from operator import is_
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pagecli.core.arrays import Array
from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import BeamCandidates, SampledToken, StepResult
from pagecli.devices import logprobs
from pagecli.devices.cpu import kernels
from pagecli.devices.known_tokens import KnownTokens
from pagecli.devices.random_draws import DrawSettings

if TYPE_CHECKING:
    from pagecli.core.sampling_params import SamplingParams
    from pagecli.core.step_plan import SampleSpec
    from pagecli.devices.step_masks import RowMasks


class Asked:
    """What specs ask for, of what does not change while sequences decode."""

    def __init__(self, specs: "list[tuple[SampleSpec, ...]]") -> None:
        self.is_plain = all(len(row) == 1 and row[0].is_plain for row in specs)
        drawn = [row for row, (first, *_) in enumerate(specs) if first.num_candidates == 0]
        tokens = [spec for row in drawn for spec in specs[row]]
        self.rows = [row for row in drawn for _ in specs[row]]  # of each token
        self.draws = DrawSettings(tokens)
        if self.is_plain:
            return
        penalized = [token for token, spec in enumerate(tokens) if spec.params.adjusts_logits]
        self.penalized = np.array(penalized, dtype=np.int64)
        self.penalties = penalties_of([tokens[token].params for token in penalized])
        self.known = [(tokens[token].known_token_ids, tokens[token].num_prompt_tokens) for token in penalized]
        self.forbidden = [(token, list(spec.forbidden_ids)) for token, spec in enumerate(tokens) if spec.forbidden_ids]
        self.ngrams = [(token, spec) for token, spec in enumerate(tokens) if spec.params.no_repeat_ngram_size > 0]
        wanted = [token for token, spec in enumerate(tokens) if spec.params.wants_logprobs]
        self.wanted = np.array(wanted, dtype=np.int64)
        self.num_top = np.array([tokens[token].params.logprobs or 0 for token in wanted], dtype=np.int64)


class KeptChoices:
    """Asked of the specs of the step before, which are used again where they are the same; and what their sequences know."""

    def __init__(self) -> None:
        self.known = KnownTokens()
        self._specs: list[tuple[SampleSpec, ...]] = []
        self._asked = Asked([])

    def of(self, specs: "list[tuple[SampleSpec, ...]]") -> Asked:
        """`specs` must not change afterwards."""
        if specs is not self._specs and (len(specs) != len(self._specs) or not all(map(is_, specs, self._specs))):
            self._specs, self._asked = specs, Asked(specs)
        return self._asked


@np.errstate(all="ignore")
def choose(
    logits: Array,
    specs: "list[tuple[SampleSpec, ...]]",
    kept: KeptChoices | None = None,
    masks: "RowMasks | None" = None,
) -> list[StepResult]:
    """What each row of logits[R, vocab] (float32; may change in place) gives: a token for each of its specs, or candidates."""
    kept = kept or KeptChoices()
    asked = kept.of(specs)
    if asked.is_plain:
        if masks is not None:
            kernels.restrict_logits(logits, masks.words, masks.mask_of)
        return list(_choose(logits, asked.draws))
    beams = {
        row: _candidates(logits[row].copy(), first, None if masks is None else masks.row(row))
        for row, (first, *_) in enumerate(specs)
        if first.num_candidates > 0
    }
    are_all = asked.rows == list(range(len(logits)))
    of_tokens = logits if are_all else logits[asked.rows]
    tokens = _sample(of_tokens, asked, kept.known, None if masks is None else masks.of_rows(asked.rows))
    return grouped(specs, tokens, beams)


def grouped(
    specs: "list[tuple[SampleSpec, ...]]", tokens: list[int | TokenLogprobs], beams: dict[int, BeamCandidates]
) -> list[StepResult]:
    """The tokens of all rows that give some, in order, and the candidates of the others, as each row's result."""
    if len(tokens) == len(specs) and not beams:
        return list(tokens)
    results: list[StepResult] = []
    first = 0
    for row, of_row in enumerate(specs):
        if row in beams:
            results.append(beams[row])
            continue
        num = len(of_row)
        if num == 1:
            results.append(tokens[first])
        else:
            of_specs = tokens[first : first + num]
            results.append(tuple(SampledToken(t) if isinstance(t, int) else SampledToken(t.token_id, t) for t in of_specs))
        first += num
    return results


def _candidates(row: Array, spec: "SampleSpec", mask: Array | None) -> BeamCandidates:
    """A beam's most likely next tokens; penalties act on log probabilities here, as in transformers' beam search."""
    values = log_softmax(row)  # all NaN where no token can be chosen
    if spec.params.adjusts_logits:
        known = KnownTokens().update([(spec.known_token_ids, spec.num_prompt_tokens)])
        kernels.apply_penalties(values[None], np.zeros(1, np.int64), penalties_of([spec.params]), *known)
    _forbid_ngrams(values, spec)
    if spec.forbidden_ids:
        values[list(spec.forbidden_ids)] = float("-inf")
    if mask is not None:
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(values)]
        values[allowed == 0] = float("-inf")
    ids = _largest(values, spec.num_candidates)
    ids = ids[np.isfinite(values[ids])]
    return BeamCandidates(ids.tolist(), values[ids].tolist())


def _sample(logits: Array, asked: Asked, known: KnownTokens, masks: "RowMasks | None") -> list[int | TokenLogprobs]:
    """One token for each row of logits[D, vocab] (float32; changed in place where penalties or masks apply)."""
    before = None
    if len(asked.wanted):
        will_change = bool(len(asked.penalized) or asked.ngrams or asked.forbidden or masks is not None)
        before = logprobs.Before(logits, asked.wanted, asked.num_top, will_change)
    if len(asked.penalized):
        kernels.apply_penalties(logits, asked.penalized, asked.penalties, *known.update(asked.known))
    for token, spec in asked.ngrams:
        _forbid_ngrams(logits[token], spec)
    for token, ids in asked.forbidden:
        logits[token, ids] = float("-inf")
    if masks is not None:
        kernels.restrict_logits(logits, masks.words, masks.mask_of)
    token_ids = _choose(logits, asked.draws)
    return [*token_ids] if before is None else before.with_logprobs(token_ids)


def penalties_of(params: "list[SamplingParams]") -> Array:
    """[n, 3] float32: repetition, presence, frequency."""
    values = [(p.repetition_penalty, p.presence_penalty, p.frequency_penalty) for p in params]
    return np.array(values, dtype=np.float32).reshape(-1, 3)


def _forbid_ngrams(row: Array, spec: "SampleSpec") -> None:
    """No n-gram of prompt and output a second time (Paulus et al., 2017)."""
    if spec.params.no_repeat_ngram_size > 0:
        row[ngram_ends(spec.known_token_ids, spec.params.no_repeat_ngram_size)] = float("-inf")


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
