"""Random weights of any shape, quick to make: for measuring speed and memory without a checkpoint."""

import math
import zlib

import torch

_NUM_VALUES = 4_194_301  # a prime, so that no row width divides it and no two rows of a tensor are alike
_STD = 0.02


class DummySource:
    """Every tensor asked for exists: bfloat16 noise, the same in every run, each tensor its own; norms scale by 1."""

    where = "dummy weights"

    def __init__(self) -> None:
        noise = torch.empty(_NUM_VALUES, dtype=torch.float32)
        self._noise = noise.normal_(0.0, _STD, generator=torch.Generator().manual_seed(0)).bfloat16()

    def __contains__(self, name: str) -> bool:
        return True

    def names(self) -> list[str]:
        return []

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name == "rope_freqs.weight" or (len(shape) == 1 and name.endswith("norm.weight")):
            return torch.ones(shape)
        values = torch.empty(math.prod(shape), dtype=torch.bfloat16)
        position, done = zlib.crc32(name.encode()) % _NUM_VALUES, 0
        while done < values.numel():
            count = min(_NUM_VALUES - position, values.numel() - done)
            values[done : done + count] = self._noise[position : position + count]
            position, done = 0, done + count
        return values.view(shape)
