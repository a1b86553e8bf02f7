"""Random weights of any shape, quick to make: for measuring speed and memory without a checkpoint."""

import math
import zlib

import torch

_NUM_VALUES = 4_194_301  # a prime: no row width divides it, so rows of a tensor longer than this do not repeat
_STD = 0.02


class DummySource:
    """Every tensor asked for exists: bfloat16 noise, the same in every run, each tensor its own stretch; norms scale by 1.

    Matrices are made on `device`, so that 26 GB of them do not pass through the host on their way to a GPU.
    """

    where = "dummy weights"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        noise = torch.empty(_NUM_VALUES, dtype=torch.float32)
        self._noise = noise.normal_(0.0, _STD, generator=torch.Generator().manual_seed(0)).bfloat16().to(device)

    def __contains__(self, name: str) -> bool:
        return True

    def release(self) -> None:
        pass

    def names(self) -> list[str]:
        return []

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name == "rope_freqs.weight" or (len(shape) == 1 and name.endswith("norm.weight")):
            return torch.ones(shape)
        count = math.prod(shape)
        start = zlib.crc32(name.encode()) % max(1, _NUM_VALUES - count)
        if count <= _NUM_VALUES:
            return self._noise[start : start + count].view(shape)
        values = torch.empty(count, dtype=torch.bfloat16, device=self._noise.device)
        for done in range(0, count, _NUM_VALUES):
            piece = values[done : done + _NUM_VALUES]
            piece.copy_(self._noise[: piece.numel()])
        return values.view(shape)
