"""A GPU that computes nothing, for measuring what its host does: buffers in the host's memory, kernels that do nothing, graphs
that replay nothing. Plans of attention are made by the extension's own code: PAGECLI_CUDA_MODULE, or a build with CUDA."""

from types import SimpleNamespace

import torch

from pagecli.devices import base
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.device import CudaDevice
from pagecli.devices.cuda.model import attention

PLANNING = ("choose_run_length", "cut_into_runs", "cut_into_tiles")


class IdleStream:
    def submit(self, work) -> None:
        work()

    def record(self):
        return self

    def wait(self, event=None) -> None: ...


class IdleGpu:
    place, capability, name = torch.device("cpu"), (9, 0), "idle GPU"
    total_bytes = 8 * 2**30

    def __init__(self) -> None:
        self.compute, self.side = IdleStream(), IdleStream()

    def empty(self, *shape, dtype):
        return torch.zeros(*shape, dtype=dtype)

    pinned = empty

    def capture(self, work):
        return SimpleNamespace(replay=lambda: None)

    def free_bytes(self) -> int:
        return 8 * 2**30

    def release_reserve(self) -> None: ...
    def synchronize(self) -> None: ...


class IdleModel:
    """A model of this config on an idle GPU."""

    weight_bytes, windows, notes, dtype = 0, (0,), (), torch.bfloat16

    def __init__(self, config) -> None:
        self.config, self.gpu = config, IdleGpu()
        self.attention_shape = attention.AttentionShape(32, 8, 128, torch.bfloat16, 396)  # Llama-3-8B's on an H200
        self.num_adapters = 0

    def compute(self, step, kv, out) -> None: ...
    def reserve_positions(self, num_positions) -> None: ...


def register() -> None:
    """--device cuda is an idle GPU from now on."""
    torch.set_num_threads(1)  # a copy shared with a helper thread waits for that thread where other programs run
    module = kernels.extension()
    planning = {name: getattr(module, name) for name in PLANNING}
    ignored = lambda name: lambda *arguments: None  # noqa: E731
    idle = type("Idle", (), {"__getattr__": lambda self, name: planning.get(name) or ignored(name)})()
    kernels.extension = attention.extension = lambda: idle
    base.register("cuda", lambda: CudaDevice(IdleGpu))
