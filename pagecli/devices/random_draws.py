"""Random numbers that belong to a row, not to a batch: the same draw whatever runs beside it, in whatever order."""

import numpy as np

NUM_BITS = 53  # of a draw


def draw(seed: int, row_key: int, sample: int, position: int) -> int:
    """A number in [0, 2^53) that depends on these four alone: Philox 4x64-10 (Salmon et al., SC 2011) keyed by seed and row."""
    key = np.array([seed, row_key], dtype=np.uint64)
    counter = np.array([position, sample, 0, 0], dtype=np.uint64)
    return int(np.random.Philox(key=key, counter=counter).random_raw()) >> (64 - NUM_BITS)
