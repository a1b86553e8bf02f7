"""Random numbers that belong to a row, not to a batch: the same draw whatever runs beside it, in whatever order."""

from functools import lru_cache

import numpy as np

NUM_BITS = 53  # of a draw
NUM_KEPT = 16  # draws of neighbouring positions, made together
WORDS = 4  # of one Philox counter, of which the first is used


def draw(seed: int, row_key: int, sample: int, position: int) -> int:
    """A number in [0, 2^53) that depends on these four alone: Philox 4x64-10 (Salmon et al., SC 2011) keyed by seed and row."""
    return _draws(seed, row_key, sample, position // NUM_KEPT)[position % NUM_KEPT]


@lru_cache(maxsize=4096)
def _draws(seed: int, row_key: int, sample: int, group: int) -> list[int]:
    """The draws of positions [group * NUM_KEPT, (group + 1) * NUM_KEPT): the counter counts positions."""
    key = np.array([seed, row_key], dtype=np.uint64)
    counter = np.array([group * NUM_KEPT, sample, 0, 0], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(NUM_KEPT * WORDS)
    return (words[::WORDS] >> np.uint64(64 - NUM_BITS)).tolist()
