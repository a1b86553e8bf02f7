"""Where the workers of a pool come from, as the pool sees it: processes of this host, or of a cluster (ray_workers.py)."""

from collections.abc import Sequence
from typing import Protocol

from pagecli.core.child_process import ChildProcess
from pagecli.core.message_socket import MessageSocket
from pagecli.jobs.workers.worker import MODULE


class WorkerProcess(Protocol):
    """A process that runs worker.py, somewhere."""

    @property
    def messages(self) -> MessageSocket: ...
    def kill(self) -> None: ...
    def close(self, grace_seconds: float = 0.0) -> None: ...
    def end_text(self) -> str:
        """How it ended, in words."""
        ...


class WorkerSource(Protocol):
    """Starts workers."""

    grows: bool  # whether a pool of it takes one more worker as long as there is room

    def start(self, number: int) -> WorkerProcess: ...
    def check(self) -> None:
        """Notes processes that ended before they connected. Raises ModelError if none can be started any more."""
        ...

    def room_text(self) -> str:
        """What a worker asks for and what is free, in words."""
        ...

    def close(self) -> None: ...


class LocalWorkers:
    """Processes of this host; `places`: the CPUs of each, dealt out in turn, None: all of this process; `gpus`: those of each,
    as CUDA_VISIBLE_DEVICES names them, dealt out so, too."""

    grows = False

    def __init__(
        self, places: Sequence[Sequence[int] | None] = (None,), module: str = MODULE, gpus: Sequence[str] = ()
    ) -> None:
        self._places, self._module, self._gpus = places, module, gpus

    def start(self, number: int) -> WorkerProcess:
        environment = {"CUDA_VISIBLE_DEVICES": self._gpus[number % len(self._gpus)]} if self._gpus else None
        return ChildProcess(self._module, cpus=self._places[number % len(self._places)], environment=environment)

    def check(self) -> None:
        pass

    def room_text(self) -> str:
        return "this host"

    def close(self) -> None:
        pass
