"""Workers on the hosts of a Ray cluster. Ray finds room for them and starts them; rows go over connections of our own."""

import contextlib
import importlib.util
import os
import socket
import time
from dataclasses import dataclass

import pagecli
from pagecli.core.child_process import ChildProcess
from pagecli.errors import ModelError, UsageError, reason_of
from pagecli.jobs.workers.listener import ExpectedSocket, Listener
from pagecli.jobs.workers.ray_cluster import MODULE
from pagecli.jobs.workers.ray_room import AUTO, LOCAL, Room
from pagecli.jobs.workers.remote_worker import WorkerCall

CONNECT_SECONDS, REACH_SECONDS, CLOSE_SECONDS, LEAVE_SECONDS = 120.0, 5.0, 15.0, 1.0
PASSED_ON = ("PAGECLI_CPU_ISA",)  # variables that change what a worker computes


@dataclass(frozen=True, slots=True)
class RayOptions:
    """`address`: HOST:PORT, auto or local; `port` of the driver, 0: any; `needs`: CPUs and GPUs of a worker, None: CPUs of the
    smallest host."""

    address: str
    port: int = 0
    cpus: int | None = None
    gpus: int = 0


class RayWorkers:
    """A WorkerSource. Raises UsageError, ModelError."""

    def __init__(self, options: RayOptions, count: int | None) -> None:
        """`count` None: as many workers as there is room for."""
        check_reachable(options.address)
        self.grows = count is None
        self._ended: dict[int, str] = {}
        self._processes: dict[int, RayProcess] = {}
        self._cluster = ChildProcess(MODULE)
        try:
            self.room = self._connect(options)
            self.cpus = options.cpus or self._share(count)
            self._cluster.messages.send(("actors", {"num_cpus": self.cpus, "num_gpus": options.gpus}))
            self._asked = f"{self.cpus} CPUs" + (f" and {options.gpus} GPUs" if options.gpus else "")
            self._listener = Listener(self.room.own_address, options.port)
        except BaseException:
            self._cluster.leave(LEAVE_SECONDS)  # it may be in the middle of starting Ray, which takes long
            raise

    def _connect(self, options: RayOptions) -> Room:
        self._cluster.messages.send(options.address)
        answer = self._cluster.messages.wait(CONNECT_SECONDS)
        if not answer:
            how = self._cluster.end_text() if self._cluster.messages.is_closed else f"no answer in {CONNECT_SECONDS:g} s"
            raise ModelError(f"--ray {options.address}: no connection to Ray: {how}", "see `ray status`")
        kind, content = answer[0]
        if kind == "refused":
            raise content
        room: Room = content
        if not any(node.cpus for node in room.nodes):
            raise ModelError(f"--ray {options.address}: the cluster has no CPUs", "see `ray status`")
        return room

    def _share(self, count: int | None) -> int:
        """CPUs of one of `count` workers, of which none is larger than the smallest host."""
        cpus = [node.cpus for node in self.room.nodes if node.cpus]
        return min(cpus) if count is None else max(1, min(min(cpus), sum(cpus) // count))

    def memory_bytes_each(self) -> int:
        """What a worker may take of the memory of the host that has the least for each CPU."""
        return min(node.memory_bytes * min(self.cpus, node.cpus) // node.cpus for node in self.room.nodes if node.cpus)

    def start(self, number: int) -> "RayProcess":
        driver, messages = self._listener.expect()
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._cluster.messages.send(("start", WorkerCall(driver, pagecli.__version__, self.cpus, environment)))
        process = RayProcess(self, driver.number, messages)
        self._processes[driver.number] = process
        return process

    def kill(self, number: int) -> None:
        self._processes.pop(number, None)
        self._cluster.messages.send(("kill", number))

    def wait_for_end(self, number: int, seconds: float = 1.0) -> None:
        """Of a worker whose connection is closed: Ray knows a moment later how it ended."""
        deadline = time.monotonic() + seconds
        while number not in self._ended and time.monotonic() < deadline:
            self.check(deadline - time.monotonic())

    def end_text(self, number: int) -> str:
        return self._ended.pop(number, "its connection was lost")

    def check(self, seconds: float = 0.0) -> None:
        messages = self._cluster.messages
        for kind, content in messages.wait(seconds):
            if kind == "room":
                self.room = content
                continue
            number, how = content
            self._ended[number] = how
            process = self._processes.pop(number, None)
            if process is not None and not process.messages.is_connected:
                process.messages.is_closed = True
        if messages.is_closed:
            hint = "finished rows are kept; see `ray status` and Ray's logs, then run the same command again"
            raise ModelError(f"the connection to Ray is lost: {self._cluster.end_text()}", hint)

    def room_text(self) -> str:
        room = self.room
        largest = max((node.cpus for node in room.nodes), default=0)
        free = f"{room.free_cpus:g} CPUs" + (f" and {room.free_gpus:g} GPUs" if "GPU" in self._asked else "")
        hosts = "one host" if len(room.nodes) == 1 else f"{len(room.nodes)} hosts"
        return f"each asks for {self._asked}; free are {free} of {hosts}, the largest with {largest}"

    def close(self) -> None:
        self._listener.close()
        self._cluster.leave(CLOSE_SECONDS)


class RayProcess:
    """A worker, which Ray starts when it has found room."""

    def __init__(self, source: RayWorkers, number: int, messages: ExpectedSocket) -> None:
        self.messages = messages
        self._source, self._number = source, number

    def kill(self) -> None:
        if self.messages.is_closed:
            self._source.wait_for_end(self._number)
        self._source.kill(self._number)

    def close(self, grace_seconds: float = 0.0) -> None:
        self._source.kill(self._number)
        self.messages.close()

    def end_text(self) -> str:
        return self._source.end_text(self._number)


def check_reachable(address: str) -> None:
    """Raises UsageError, ModelError for what can be told before Ray is loaded, which takes long to give up."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray: Ray is not installed", "pip install 'pagecli[ray]'; --workers and --shard need no Ray")
    if address in (LOCAL, AUTO):
        return
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdecimal() or not 0 < int(port) < 65536:
        hint = "give HOST:PORT of a cluster's head, auto or local; run the job on a host of the cluster"
        raise UsageError(f"--ray is {address!r}", hint)
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), REACH_SECONDS)):
            pass
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can be called so
        hint = "see `ray status` there; the head's port is 6379 unless it was given another"
        raise ModelError(f"--ray {address}: cannot be reached: {reason_of(error)}", hint) from error
