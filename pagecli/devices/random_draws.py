"""Random numbers that belong to a row, not to a batch: the same draw whatever runs beside it, in whatever order. And the
parameters of draws as arrays."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pagecli.core.arrays import Array
    from pagecli.core.step_plan import SampleSpec

NUM_BITS = 53  # of a draw
NUM_KEPT = 32  # draws of neighbouring positions, made together
WORDS = 4  # of one Philox counter, of which the first is used


def draw(seed: int, row_key: int, sample: int, position: int) -> int:
    """A number in [0, 2^53) that depends on these four alone: Philox 4x64-10 (Salmon et al., SC 2011) keyed by seed and row."""
    return int(_draws(seed, row_key, sample, position // NUM_KEPT)[position % NUM_KEPT])


@lru_cache(maxsize=4096)
def _draws(seed: int, row_key: int, sample: int, group: int) -> "Array":
    """[NUM_KEPT] int64: the draws of positions [group * NUM_KEPT, (group + 1) * NUM_KEPT): the counter counts positions."""
    key = np.array([seed, row_key], dtype=np.uint64)
    counter = np.array([group * NUM_KEPT, sample, 0, 0], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(NUM_KEPT * WORDS)
    return (words[::WORDS] >> np.uint64(64 - NUM_BITS)).astype(np.int64)


class DrawSettings:
    """Of D specs: temperatures (0 where the likeliest token is taken), top_p, min_p float32; top_k int32."""

    def __init__(self, specs: "list[SampleSpec]") -> None:
        params = [spec.params for spec in specs]
        self.all_greedy = all(p.greedy for p in params)
        self.temperatures = np.array([0.0 if p.greedy else p.temperature for p in params], dtype=np.float32)
        self.top_k = np.array([p.top_k for p in params], dtype=np.int32)
        self.top_p = np.array([p.top_p for p in params], dtype=np.float32)
        self.min_p = np.array([p.min_p for p in params], dtype=np.float32)
        self._rows = [(spec.params.seed, spec.row_key, spec.sample) for spec in specs]
        self._keys = np.array([(*row, 0) for row in self._rows], dtype=np.uint64).reshape(len(specs), 4).view(np.int64)
        self._groups: Array | None = None  # of positions, whose draws are kept; none yet
        self._known = [spec.known_token_ids for spec in specs]
        self._num_prompt = np.array([spec.num_prompt_tokens for spec in specs], dtype=np.int64)

    def keys(self) -> "Array":
        """[D, 4] int64, for uint64: seed, row key, sample, position of the output token. The next call changes them."""
        self._keys[:, 3] = self._positions()
        return self._keys

    def draws(self) -> "Array":
        """[D] int64: the random numbers of these keys."""
        groups, at = np.divmod(self._positions(), NUM_KEPT)
        if self._groups is None:
            self._groups, self._drawn = np.full(len(groups), -1), np.empty((len(groups), NUM_KEPT), dtype=np.int64)
        for row in np.flatnonzero(groups != self._groups).tolist():
            self._drawn[row] = _draws(*self._rows[row], int(groups[row]))
        self._groups = groups
        return self._drawn[np.arange(len(groups)), at]

    def _positions(self) -> "Array":
        return np.fromiter(map(len, self._known), dtype=np.int64, count=len(self._known)) - self._num_prompt
