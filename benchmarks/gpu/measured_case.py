"""One measurement of a kernel, and the sizes that its tensors have."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

BF16, E4M3 = torch.bfloat16, torch.float8_e4m3fn
ELEMENT = 2  # bytes
FLOAT32 = 4  # bytes of a logit


@dataclass
class Case:
    """One measurement. `sets` are argument sets to rotate through, so that a cache does not answer for the memory."""

    name: str
    num_bytes: int  # read and written, each once
    num_operations: int  # multiplications and additions; 0: bound by memory alone
    sets: list[tuple]
    ours: Callable[..., torch.Tensor]
    torchs: Callable[..., torch.Tensor] | None
    torch_name: str


@dataclass(frozen=True)
class Sizes:
    device: torch.device
    small: bool
    rotate_bytes: int = 512 * 2**20  # several times a GPU's level-2 cache

    def of(self, real: int, small: int) -> int:
        return small if self.small else real

    def sets(self, make: Callable[[], tuple], num_bytes: int) -> list[tuple]:
        count = 1 if self.small else max(2, min(32, -(-self.rotate_bytes // max(1, num_bytes))))
        return [make() for _ in range(count)]

    def random(self, *shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float32, device=self.device).to(dtype)
