"""Log probabilities of chosen tokens under the model itself: before penalties, temperature and filters."""

from functools import partial

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import NO_TOKEN
from pagecli.devices.cpu import kernels

Top = tuple[tuple[int, float], ...]  # token id and log probability, best first
_MAKE = partial(tuple.__new__, TokenLogprobs)


class Before:
    """What the tokens' log probabilities are found by, read before their rows of logits change."""

    def __init__(self, logits: Array, rows: Array, num_top: Array, will_change: bool) -> None:
        """Of logits[rows[n]], float32; num_top[n]: how many of the most likely tokens are wanted beside the chosen one;
        will_change: whether the logits will, before the tokens are chosen."""
        self._rows, num_top = rows, np.minimum(num_top, logits.shape[1])
        self._logits = logits[rows] if will_change else logits
        self._at: Array = np.arange(len(rows)) if will_change else rows
        most = int(num_top.max(initial=0))
        ids, values = np.empty((len(rows), most), np.int64), np.empty((len(rows), most), np.float32)
        normalizers = np.empty((len(rows), 2), np.float32)
        kernels.top_logits(ids, values, normalizers, logits, rows)
        self._largest, self._log_sums = normalizers.T
        self._top: list[Top] = [()] * len(rows)
        if most:
            self._top = _pairs(ids, values, num_top, self._largest, self._log_sums)

    def with_logprobs(self, token_ids: list[int]) -> list[int | TokenLogprobs]:
        """The tokens chosen from all rows, those of `rows` with their log probabilities."""
        chosen = np.array(token_ids, dtype=np.int64)[self._rows]
        logprobs = self._logits[self._at, chosen] - self._largest - self._log_sums
        return among(token_ids, self._rows.tolist(), logprobs.tolist(), self._top)


def among(token_ids: list[int], places: list[int], logprobs: list[float], top: list[Top]) -> list[int | TokenLogprobs]:
    """The tokens, those at `places` with what else is known of them; where none could be chosen nothing is."""
    chosen = [token_ids[place] for place in places]
    made = map(_MAKE, zip(chosen, logprobs, top, strict=True))  # as TokenLogprobs(...) does, in half the time
    if len(places) == len(token_ids) and NO_TOKEN not in chosen:
        return list(made)  # `places` are in order
    found: list[int | TokenLogprobs] = list(token_ids)
    for place, token in zip(places, made, strict=True):
        if token.token_id != NO_TOKEN:
            found[place] = token
    return found


def tops(ids: Array, values: Array, counts: Array, largest: Array, log_sums: Array) -> list[Top]:
    """For each of n rows its counts[n] most likely tokens; ids and values (logits), rows one after the other, in any order
    but that of equal values."""
    most = int(counts.max(initial=0))
    if not most:
        return [()] * len(counts)
    places = np.arange(most)
    at = (np.cumsum(counts) - counts)[:, None] + places
    table = values.take(at, mode="clip")
    if at.size > len(values):
        table[places >= counts[:, None]] = np.float32("-inf")
    order = np.argsort(-table, axis=1, kind="stable") + at[:, :1]
    return _pairs(ids.take(order, mode="clip"), values.take(order, mode="clip"), counts, largest, log_sums)


def _pairs(ids: Array, values: Array, counts: Array, largest: Array, log_sums: Array) -> list[Top]:
    """The first counts[n] of ids and values (logits) [n, most] as tuples."""
    logprobs = values - largest[:, None] - log_sums[:, None]
    pairs = zip(ids.ravel().tolist(), logprobs.ravel().tolist(), strict=True)
    found: list[Top] = list(zip(*[pairs] * ids.shape[1], strict=True))
    if (counts == ids.shape[1]).all():
        return found
    return [top[:count] for top, count in zip(found, counts.tolist(), strict=True)]
