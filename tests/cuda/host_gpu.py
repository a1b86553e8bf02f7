"""A GPU of devices/cuda/streams.py that is the host, for the emulated kernels: work is done when it is submitted."""

from collections.abc import Callable

import torch

from pagecli.devices import base
from pagecli.devices.cuda.device import CudaDevice
from pagecli.devices.memory import available_bytes


class HostEvent:
    def wait(self) -> None:
        pass


class HostStream:
    def submit(self, work: Callable[[], object]) -> None:
        work()

    def record(self) -> HostEvent:
        return HostEvent()

    def wait(self, event: object) -> None:
        pass


class HostGraph:
    """Does the work again each time."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def replay(self) -> None:
        self._work()


class HostGpu:
    place = torch.device("cpu")
    capability = (9, 0)
    name = "emulated GPU"
    total_bytes = 1 << 30

    def __init__(self) -> None:
        self.compute, self.side = HostStream(), HostStream()

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype)

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype)

    def capture(self, work: Callable[[], object]) -> HostGraph:
        return HostGraph(work)

    def free_bytes(self) -> int:
        return available_bytes()

    def release_reserve(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def register() -> None:
    """From now on --device cuda is the host, computing with the emulated kernels of PAGECLI_CUDA_MODULE."""
    base.register("cuda", lambda: CudaDevice(HostGpu))
