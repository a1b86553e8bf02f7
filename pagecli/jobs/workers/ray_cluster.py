"""A process that speaks to Ray for a driver, so that the driver keeps its signals, its streams and its memory to itself.

    driver -> this    address; then ("actors", what each asks for), ("start", WorkerCall), ("kill", number)
    this -> driver    ("connected", Room) or ("refused", PagecliError); then ("room", Room), ("ended", (number, how it ended))

With it ends its Ray session, and with that its actors; a cluster that it has started ends too.
"""

import contextlib
import logging
import os
import tempfile
import time
from typing import Any

from pagecli.core.child_process import connect_to_parent
from pagecli.core.message_socket import MessageSocket
from pagecli.errors import ModelError, first_line
from pagecli.jobs.workers.ray_room import LOCAL, Node, Room
from pagecli.jobs.workers.remote_worker import RemoteWorker, WorkerCall

MODULE = "pagecli.jobs.workers.ray_cluster"
POLL_SECONDS, ROOM_SECONDS = 0.1, 5.0
OBJECT_STORE_BYTES = 80 << 20  # rows do not go through it; Ray's least is 75 MiB
SILENT: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayCluster:
    """A session with Ray, and the actors that were started in it. Raises ModelError if Ray cannot be reached."""

    def __init__(self, address: str, messages: MessageSocket) -> None:
        os.environ.update(_SETTINGS)
        import ray

        self._ray, self._messages = ray, messages
        self._actors: dict[int, Any] = {}
        self._runs: dict[Any, int] = {}  # what an actor's call will return -> its number
        self._folder = tempfile.TemporaryDirectory(prefix="pagecli-ray-", dir="/tmp")  # names of sockets may not be long
        local: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "num_cpus": len(os.sched_getaffinity(0))}
        local["_temp_dir"] = self._folder.name
        try:
            ray.init(address=address, **(local if address == LOCAL else {}), **SILENT)
        except Exception as error:  # of many kinds
            hint = "see `ray status`; start one: ray start --head; --ray local needs none, --workers no Ray"
            raise ModelError(f"--ray {address}: no connection to Ray: {first_line(error)}", hint) from error
        self._own_address = "127.0.0.1" if address == LOCAL else ray.util.get_node_ip_address()

    def room(self) -> Room:
        ray, nodes = self._ray, []
        for node in ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                sizes = int(has.get("CPU", 0)), int(has.get("GPU", 0)), int(has.get("memory", 0))
                nodes.append(Node(node["NodeManagerHostname"], *sizes))
        free = ray.available_resources()
        return Room(tuple(nodes), free.get("CPU", 0.0), free.get("GPU", 0.0), self._own_address)

    def serve(self) -> None:
        """Until the driver hangs up."""
        next_room = 0.0
        while not self._messages.is_closed:
            for kind, content in self._messages.wait(POLL_SECONDS):
                self._do(kind, content)
            self._tell_ended()
            if time.monotonic() >= next_room:
                self._messages.send(("room", self.room()))
                next_room = time.monotonic() + ROOM_SECONDS

    def _do(self, kind: str, content: Any) -> None:
        if kind == "actors":
            self._actor = self._ray.remote(max_restarts=0, scheduling_strategy="SPREAD", **content)(RemoteWorker)
        elif kind == "start":
            self._start(self._actor.remote(), content)
        elif (actor := self._actors.pop(content, None)) is not None:
            self._ray.kill(actor)

    def _start(self, actor: Any, call: WorkerCall) -> None:
        self._actors[call.driver.number] = actor
        self._runs[actor.run.remote(call)] = call.driver.number

    def _tell_ended(self) -> None:
        ended, _ = self._ray.wait(list(self._runs), num_returns=len(self._runs), timeout=0) if self._runs else ([], [])
        for run in ended:
            number = self._runs.pop(run)
            self._actors.pop(number, None)
            try:
                self._ray.get(run)
                how = "ended"
            except Exception as error:
                how = _how(error)
            self._messages.send(("ended", (number, how)))

    def close(self) -> None:
        """Ends the actors, whatever they do, and the session."""
        for actor in self._actors.values():
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        self._ray.shutdown()
        self._folder.cleanup()


def _how(error: Exception) -> str:
    """How an actor ended, by what Ray makes of it: an exception of ours, or a long text."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{cause}"
    said = str(error)
    for before in ("The actor is dead because ", "ModuleNotFoundError: "):
        if before in said:
            return said.partition(before)[2].split(". ")[0].splitlines()[0]
    return said.strip().splitlines()[-1]


def main() -> None:
    messages = connect_to_parent(tidies_up=True)  # Ray leaves agents behind when its driver is killed
    received = messages.wait(None)
    if not received:
        return
    try:
        cluster = RayCluster(received[0], messages)
    except ModelError as error:
        messages.send(("refused", error))
        messages.flush_all(10.0)
        return
    try:
        messages.send(("connected", cluster.room()))
        cluster.serve()
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
