"""Random weights of any shape, quick to make: for measuring speed and memory without a checkpoint."""

import math
import zlib

import numpy as np

from pagecli.core.arrays import Array

NUM_VALUES = 4_194_301  # a prime: no row width divides it, so rows of a tensor longer than this do not repeat
_STD = 0.02


def noise() -> Array:
    """[NUM_VALUES] bfloat16 (as uint16), the same in every run: normal numbers, cut off to that type."""
    values = np.random.Generator(np.random.PCG64(0)).standard_normal(NUM_VALUES, dtype=np.float32)
    values *= _STD
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def is_scale(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the tensor is all ones: norms scale by 1."""
    return name == "rope_freqs.weight" or (len(shape) == 1 and name.endswith("norm.weight"))


def stretch_start(name: str, count: int) -> int:
    """Where in the noise a tensor of `count` numbers, no more than there are, begins: each has its own stretch."""
    return zlib.crc32(name.encode()) % max(1, NUM_VALUES - count)


class DummySource:
    """Every tensor asked for exists."""

    where = "dummy weights"

    def __init__(self) -> None:
        self._noise = noise()

    def folded(self, name: str) -> tuple[str, ...]:
        return ("transposed", "heads", "offset")

    def stored_name(self, name: str) -> str:
        return name

    def release(self) -> None:
        pass

    def names(self) -> list[str]:
        return []

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        if is_scale(name, shape):
            return np.ones(shape, np.float32)
        count = math.prod(shape)
        if count > NUM_VALUES:
            return np.resize(self._noise, shape)
        start = stretch_start(name, count)
        return self._noise[start : start + count].reshape(shape)
