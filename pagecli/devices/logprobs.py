"""Log probabilities of chosen tokens under the model itself: before penalties, temperature and filters."""

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import NO_TOKEN, SampledToken

MAX_ELEMENTS = 1 << 20  # of logits whose exponentials are in memory at once

Top = tuple[tuple[int, float], ...]  # token id and log probability, best first


class Before:
    """What the tokens' log probabilities are found by, read before their rows of logits change."""

    def __init__(self, logits: Array, rows: Array, num_top: Array) -> None:
        """Of logits[rows[n]], float32; num_top[n]: how many of the most likely tokens are wanted beside the chosen one."""
        self._rows, num_top = rows, np.minimum(num_top, logits.shape[1])
        self._logits = logits[rows]
        step = max(1, MAX_ELEMENTS // logits.shape[1])
        pieces = [_normalizers(self._logits[first : first + step]) for first in range(0, len(rows), step)]
        self._largest, self._log_sums = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        self._top: list[Top] = [()] * len(rows)
        if num_top.any():
            self._top = []
            for first in range(0, len(rows), step):
                piece = slice(first, first + step)
                found = most_likely(self._logits[piece], num_top[piece])
                self._top += tops(*found, num_top[piece], self._largest[piece], self._log_sums[piece])

    def with_logprobs(self, token_ids: list[int]) -> list[int | SampledToken]:
        """The tokens chosen from all rows, those of `rows` with their log probabilities."""
        found: list[int | SampledToken] = list(token_ids)
        chosen = np.array(token_ids, dtype=np.int64)[self._rows]
        logprobs = self._logits[np.arange(len(chosen)), chosen] - self._largest - self._log_sums
        for row, token in zip(self._rows.tolist(), sampled_tokens(chosen.tolist(), logprobs.tolist(), self._top), strict=True):
            found[row] = token
        return found


def sampled_tokens(token_ids: list[int], logprobs: list[float], top: list[Top]) -> list[SampledToken]:
    found = list(map(SampledToken, token_ids, map(TokenLogprobs, token_ids, logprobs, top)))
    if NO_TOKEN in token_ids:
        found = [token if token.token_id != NO_TOKEN else SampledToken(NO_TOKEN) for token in found]
    return found


def tops(ids: Array, values: Array, counts: Array, largest: Array, log_sums: Array) -> list[Top]:
    """For each of n rows its counts[n] most likely tokens; ids and values (logits), rows one after the other, in any order
    but that of equal values."""
    rows = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-values, rows))
    logprobs = values[order] - largest[rows] - log_sums[rows]
    pairs = list(zip(ids[order].tolist(), logprobs.tolist(), strict=True))
    ends = np.cumsum(counts).tolist()
    return [tuple(pairs[end - count : end]) for end, count in zip(ends, counts.tolist(), strict=True)]


def most_likely(logits: Array, counts: Array) -> tuple[Array, Array]:
    """Ids and values of the counts[n] largest of logits[n, vocab], of equal ones the first, each row's in the order of ids."""
    most = int(counts.max())
    x = np.where(np.isnan(logits), np.float32("-inf"), logits)
    least = np.partition(x, x.shape[1] - most, axis=1)[:, x.shape[1] - most]
    rows, ids = np.nonzero(x >= least[:, None])
    values = x[rows, ids]
    order = np.lexsort((-values, rows))
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = np.sort(order[rank < counts[rows]])
    return ids[kept], values[kept]


def _normalizers(logits: Array) -> tuple[Array, Array]:
    """The largest of each row, and the logarithm of the sum of exp(x - largest), summed in float64."""
    largest = logits.max(axis=1)
    sums = np.exp(logits - largest[:, None]).astype(np.float64).sum(axis=1)
    return largest, np.log(sums).astype(np.float32)
