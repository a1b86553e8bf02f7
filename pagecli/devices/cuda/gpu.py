"""The GPU of streams.py on torch.cuda, with two streams of its own."""

from collections.abc import Callable
from contextlib import suppress

import torch

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.errors import DeviceGuard
from pagecli.devices.cuda.streams import Event
from pagecli.errors import ModelError


def open_gpu() -> "TorchGpu":
    """The GPU to compute on. Raises ModelError where there is none."""
    if not torch.cuda.is_available():
        raise ModelError("--device cuda: this machine has no GPU that torch can use", "use --device cpu")
    if kernels.extension().num_devices() == 0:
        raise ModelError("--device cuda: the GPU's driver is missing, or older than these kernels need", "use --device cpu")
    return TorchGpu(torch.device("cuda"))


class CudaEvent:
    def __init__(self, device: "TorchGpu", event: torch.cuda.Event) -> None:
        self._device, self.event = device, event

    def wait(self) -> None:
        with self._device.guarded("waiting for a step"):
            self.event.synchronize()


class CudaStream:
    def __init__(self, device: "TorchGpu", stream: torch.cuda.Stream) -> None:
        self._device, self.stream = device, stream

    def submit(self, work: Callable[[], object]) -> None:
        with self._device.guarded("queueing a step"), torch.cuda.stream(self.stream):
            work()

    def record(self) -> CudaEvent:
        with self._device.guarded("queueing a step"):
            event = torch.cuda.Event()
            event.record(self.stream)
            return CudaEvent(self._device, event)

    def wait(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        with self._device.guarded("queueing a step"):
            self.stream.wait_event(event.event)


class CudaGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def replay(self) -> None:
        self._graph.replay()


class TorchGpu:
    """One GPU."""

    def __init__(self, place: torch.device) -> None:
        self.place = place
        self.guarded = DeviceGuard()
        with self.guarded("opening it"):
            self.compute = CudaStream(self, torch.cuda.Stream(place))
            self.side = CudaStream(self, torch.cuda.Stream(place))
            self._graph_pool = torch.cuda.graph_pool_handle()

    @property
    def capability(self) -> tuple[int, int]:
        return torch.cuda.get_device_capability(self.place)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.place)

    @property
    def total_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(self.place).total_memory)

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        with self.guarded("taking memory of it"):
            return torch.empty(*shape, dtype=dtype, device=self.place)

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        with self.guarded("pinning memory of the host"):
            return torch.empty(*shape, dtype=dtype, pin_memory=True)

    def capture(self, work: Callable[[], object]) -> CudaGraph:
        """All graphs share one pool of memory: only one of them runs at a time, and nothing they allocate outlives its run."""
        with self.guarded("capturing a graph"):
            self.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(self.compute.stream):
                graph.capture_begin(pool=self._graph_pool, capture_error_mode="thread_local")
                try:
                    work()
                except BaseException:
                    with suppress(RuntimeError):  # it would complain that the capture failed, and not say why
                        self._end_capture(graph)
                    raise
                self._end_capture(graph)
            return CudaGraph(graph)

    def _end_capture(self, graph: torch.cuda.CUDAGraph) -> None:
        """Where the end fails, torch would go on taking the graphs' pool for captures that are under way, and free nothing."""
        try:
            graph.capture_end()
        except RuntimeError:
            with suppress(RuntimeError):  # it was closed already
                torch._C._cuda_endAllocateToPool(self.place.index or 0, self._graph_pool)
            raise

    def free_bytes(self) -> int:
        with self.guarded("asking for its memory"):
            return int(torch.cuda.mem_get_info(self.place)[0])

    def release_reserve(self) -> None:
        with self.guarded("giving back memory"):
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        with self.guarded("waiting for it"):
            torch.cuda.synchronize(self.place)
