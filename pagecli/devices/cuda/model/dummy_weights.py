"""The dummy weights made on a GPU, so that 26 GB of them do not pass through the host on their way there."""

import math

import torch

from pagecli.devices.reference.tensors import as_tensor
from pagecli.model.weights.dummy import NUM_VALUES, DummySource, is_scale, stretch_start


class CudaDummySource(DummySource):
    """DummySource's numbers, in tensors of the GPU."""

    def __init__(self, device: torch.device | str) -> None:
        super().__init__()
        self._on_device = as_tensor(self._noise).to(device)

    def read_tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """As `read`; matrices lie on the GPU."""
        if is_scale(name, shape):
            return torch.ones(shape)
        count, noise = math.prod(shape), self._on_device
        start = stretch_start(name, count)
        if count <= NUM_VALUES:
            return noise[start : start + count].view(shape)
        values = torch.empty(count, dtype=noise.dtype, device=noise.device)
        for done in range(0, count, NUM_VALUES):
            piece = values[done : done + NUM_VALUES]
            piece.copy_(noise[: piece.numel()])
        return values.view(shape)
