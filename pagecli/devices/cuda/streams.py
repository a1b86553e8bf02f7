"""What the GPU runner needs of a GPU, and nothing more: streams of work, events between them, buffers, graphs.

A stream does its work in order, some time after `submit` returned; two streams know nothing of each other unless one waits for
an event of the other. Work touches buffers only, never what the host changes after submitting it. All of it raises
the errors of pagecli/devices/cuda/errors.py; errors of the work itself may come at any later call.
"""

from collections.abc import Callable
from typing import Protocol

import torch


class Event(Protocol):
    """A place in a stream."""

    def wait(self) -> None:
        """The host waits until all work before that place is done."""
        ...


class Stream(Protocol):
    def submit(self, work: Callable[[], object]) -> None:
        """Queue what `work` does when it is called: operations on buffers of the device, copies from and to pinned ones."""
        ...

    def record(self) -> Event: ...

    def wait(self, event: Event) -> None:
        """Work queued from now on begins when `event` has been reached; the host goes on."""
        ...


class Graph(Protocol):
    """Recorded work. It reads and writes the very buffers it was recorded with."""

    def replay(self) -> None:
        """Do the work again; called in work that was submitted to a stream."""
        ...


class Gpu(Protocol):
    """One GPU: torch's, or the tests'."""

    @property
    def place(self) -> torch.device:
        """Where its tensors lie, for torch."""
        ...

    @property
    def capability(self) -> tuple[int, int]:
        """Its compute capability, such as (9, 0)."""
        ...

    @property
    def name(self) -> str: ...

    @property
    def total_bytes(self) -> int:
        """Its memory, whoever holds it."""
        ...

    @property
    def compute(self) -> Stream:
        """The stream of the steps."""
        ...

    @property
    def side(self) -> Stream:
        """A second one, for copies that run beside the steps."""
        ...

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory of the device, whatever it holds."""
        ...

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory of the host that the device can reach."""
        ...

    def capture(self, work: Callable[[], object]) -> Graph:
        """Record what `work` would queue on the compute stream, without doing it; all streams must be idle."""
        ...

    def free_bytes(self) -> int:
        """Memory of the device that nobody holds: not other programs, and not this one's own reserve."""
        ...

    def release_reserve(self) -> None:
        """Give back the memory that is kept for tensors to come; all streams must be idle."""
        ...

    def synchronize(self) -> None:
        """The host waits for all streams."""
        ...
