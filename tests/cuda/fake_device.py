"""A device of cuda/streams.py that does as little as it may, as late as it may, or in whatever order its streams allow: a wait
that is missing, or a buffer that is used again too early, gives wrong numbers here as it might on a GPU.

Work lies in its stream's queue until somebody needs it. `order`: "lazy" does what is waited for and nothing else; "side first"
does the side stream's work at once and the compute stream's late; "compute first" the other way round; a number draws by it
what is done when. Every call can fail, as torch would: see `fail_at`.
"""

import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from recorded_graph import RecordedGraph
from torch.utils._python_dispatch import TorchDispatchMode

from pagecli.devices.cuda.errors import DeviceGuard

Order = str | int


@dataclass
class FakeEvent:
    device: "FakeDevice"
    stream: "FakeStream"
    number: int  # of the stream's operations, that come before it

    def wait(self) -> None:
        with self.device.call("wait"):
            self.stream.run_up_to(self.number)


@dataclass
class FakeStream:
    device: "FakeDevice"
    name: str
    queue: list[Callable[[], object] | FakeEvent] = field(default_factory=list)
    num_done: int = 0

    def submit(self, work: Callable[[], object]) -> None:
        with self.device.call("submit"):
            self._add(work)

    def record(self) -> FakeEvent:
        with self.device.call("record"):
            return FakeEvent(self.device, self, self.num_done + len(self.queue))

    def wait(self, event: FakeEvent) -> None:
        with self.device.call("stream wait"):
            self._add(event)

    def run_up_to(self, number: int) -> None:
        while self.num_done < number:
            self.do_next()

    def do_next(self) -> None:
        """The next operation; what it waits for is done before it, on the other stream."""
        operation = self.queue.pop(0)
        self.num_done += 1
        if isinstance(operation, FakeEvent):
            operation.stream.run_up_to(operation.number)
        else:
            with torch.inference_mode(), self.device.activations:
                operation()

    def _add(self, operation: Callable[[], object] | FakeEvent) -> None:
        self.queue.append(operation)
        self.device.make_progress()


class Activations(TorchDispatchMode):
    """Counts the bytes of tensors that work makes for itself: the most there ever were at once stay reserved, as by torch."""

    def __init__(self, device: "FakeDevice") -> None:
        super().__init__()
        self._device, self.live, self.reserved = device, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = (*args, *kwargs.values())  # among them `out`
        if isinstance(result, torch.Tensor) and not any(a is result for a in given) and not func.is_view:
            self._take(result)
        return result

    def _take(self, tensor: torch.Tensor) -> None:
        size = tensor.nbytes
        self._device.may_fail("activation")
        if max(self.reserved, self.live + size) > self._device.total_bytes - self._device.buffer_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")
        self.live += size
        self.reserved = max(self.reserved, self.live)
        weakref.finalize(tensor, self._give_back, size)

    def _give_back(self, size: int) -> None:
        self.live -= size


class FakeDevice:
    place = torch.device("cpu")
    capability, name = (9, 0), "fake GPU"

    def __init__(self, order: Order = "lazy", total_bytes: int = 2**30, fail_at: tuple[str, int, str] | None = None) -> None:
        """fail_at: (kind of call, how many of it go well before, "lost", "refused" or "memory")"""
        self.compute, self.side = FakeStream(self, "compute"), FakeStream(self, "side")
        self.order, self.total_bytes, self.buffer_bytes, self.graph_bytes = order, total_bytes, 0, 0
        self.activations = Activations(self)
        self.calls: Counter[str] = Counter()
        self.num_buffers = 0  # alive
        self.released: list[int] = []  # bytes that were reserved for activations at each release_reserve()
        self.fail_at, self._guard = fail_at, DeviceGuard()
        self._random = random.Random(order)

    @contextmanager
    def call(self, kind: str) -> Iterator[None]:
        """One call to the device, perhaps the one that fails."""
        with self._guard(f"doing {kind}"):
            self.may_fail(kind)
            yield

    def may_fail(self, kind: str) -> None:
        self.calls[kind] += 1
        if self.fail_at is None or (kind, self.calls[kind] - 1) != self.fail_at[:2]:
            return
        if self.fail_at[2] == "lost":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")
        if self.fail_at[2] == "refused":
            raise RuntimeError(
                "CUDA: launching a kernel failed: invalid configuration argument (cudaErrorInvalidConfiguration)"
            )
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def make_progress(self) -> None:
        """Do what `order` says is done by now."""
        streams = (self.compute, self.side)
        if self.order in ("side first", "compute first"):
            eager = streams[self.order == "side first"]
            while eager.queue:
                eager.do_next()
        elif self.order != "lazy":
            while self._random.random() < 0.6 and (busy := [stream for stream in streams if stream.queue]):
                self._random.choice(busy).do_next()

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        with self.call("empty"):
            tensor = self._buffer(shape, dtype)
            if self.buffer_bytes + tensor.nbytes + self.activations.reserved > self.total_bytes:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a buffer")
            self.buffer_bytes += tensor.nbytes
            weakref.finalize(tensor, self._freed, tensor.nbytes)
            return tensor

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        with self.call("pinned"):
            tensor = self._buffer(shape, dtype)
            weakref.finalize(tensor, self._freed, 0)
            return tensor

    def _buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Poisoned: what nobody has written is seen."""
        self.num_buffers += 1
        return torch.full(shape, float("nan") if dtype.is_floating_point else 113, dtype=dtype)

    def _freed(self, num_bytes: int) -> None:
        self.buffer_bytes -= num_bytes
        self.num_buffers -= 1

    def capture(self, work: Callable[[], object]) -> RecordedGraph:
        with self.call("capture"):
            self.synchronize()
            graph = RecordedGraph(work)
            self.graph_bytes += 1000
            return graph

    def free_bytes(self) -> int:
        with self.call("free_bytes"):
            return self.total_bytes - self.buffer_bytes - self.activations.reserved - self.graph_bytes

    def release_reserve(self) -> None:
        with self.call("release_reserve"):
            self.released.append(self.activations.reserved)
            self.activations.reserved = self.activations.live

    def synchronize(self) -> None:
        with self.call("synchronize"):
            for stream in (self.compute, self.side):
                stream.run_up_to(stream.num_done + len(stream.queue))
