"""Log probabilities of chosen tokens under the model itself: before penalties, temperature and filters."""

from functools import partial

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import NO_TOKEN

MAX_ELEMENTS = 1 << 20  # of logits that are copied at once
EXP_ELEMENTS = 1 << 15  # of logits whose exponentials are in memory, and in a core's cache, at once

Top = tuple[tuple[int, float], ...]  # token id and log probability, best first
_MAKE = partial(tuple.__new__, TokenLogprobs)


class Before:
    """What the tokens' log probabilities are found by, read before their rows of logits change."""

    def __init__(self, logits: Array, rows: Array, num_top: Array) -> None:
        """Of logits[rows[n]], float32; num_top[n]: how many of the most likely tokens are wanted beside the chosen one."""
        self._rows, num_top = rows, np.minimum(num_top, logits.shape[1])
        self._logits = logits[rows]
        self._largest, self._log_sums = _normalizers(self._logits)
        self._top: list[Top] = [()] * len(rows)
        if num_top.any():
            self._top = []
            step = max(1, MAX_ELEMENTS // logits.shape[1])
            for first in range(0, len(rows), step):
                piece = slice(first, first + step)
                found = most_likely(self._logits[piece], int(num_top.max()))
                self._top += _pairs(*found, num_top[piece], self._largest[piece], self._log_sums[piece])

    def with_logprobs(self, token_ids: list[int]) -> list[int | TokenLogprobs]:
        """The tokens chosen from all rows, those of `rows` with their log probabilities."""
        chosen = np.array(token_ids, dtype=np.int64)[self._rows]
        logprobs = self._logits[np.arange(len(chosen)), chosen] - self._largest - self._log_sums
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


def most_likely(logits: Array, count: int) -> tuple[Array, Array]:
    """Ids and values of the `count` largest of logits[n, vocab], largest first, of equal ones the first; NaN is the least."""
    rows, left = np.arange(len(logits)), logits.copy()
    ids = np.empty((len(logits), count), dtype=np.int64)
    for place in range(count):
        ids[:, place] = found = left.argmax(axis=1)
        left[rows, found] = np.float32("-inf")
    values = logits[rows[:, None], ids]
    if not (values > np.float32("-inf")).all():  # NaN, or the same token again
        ids = np.argsort(-np.where(np.isnan(logits), np.float32("-inf"), logits), axis=1, kind="stable")[:, :count]
        values = logits[rows[:, None], ids]
    return ids, values


def _pairs(ids: Array, values: Array, counts: Array, largest: Array, log_sums: Array) -> list[Top]:
    """The first counts[n] of ids and values (logits) [n, most] as tuples."""
    logprobs = values - largest[:, None] - log_sums[:, None]
    pairs = zip(ids.ravel().tolist(), logprobs.ravel().tolist(), strict=True)
    found: list[Top] = list(zip(*[pairs] * ids.shape[1], strict=True))
    if (counts == ids.shape[1]).all():
        return found
    return [top[:count] for top, count in zip(found, counts.tolist(), strict=True)]


def _normalizers(logits: Array) -> tuple[Array, Array]:
    """The largest of each row, and the logarithm of the sum of exp(x - largest), summed in float64."""
    num_rows, vocab = logits.shape
    largest = logits[np.arange(num_rows), logits.argmax(axis=1)]
    step = max(1, min(num_rows, EXP_ELEMENTS // vocab))
    powers, wide = np.empty((step, vocab), np.float32), np.empty((step, vocab))
    sums = np.empty(num_rows)
    for first in range(0, num_rows, step):
        piece = slice(first, min(first + step, num_rows))
        num = piece.stop - first
        np.exp(np.subtract(logits[piece], largest[piece, None], out=powers[:num]), out=powers[:num])
        wide[:num] = powers[:num]
        wide[:num].sum(axis=1, out=sums[piece])
    return largest, np.log(sums).astype(np.float32)
