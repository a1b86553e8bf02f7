"""A worker as an actor of Ray: in a process that Ray has started on some host, it connects to its driver and serves it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import pagecli
from pagecli.core.child_process import end_with_parent
from pagecli.jobs.workers.listener import Appointment, connect
from pagecli.jobs.workers.worker import serve


@dataclass(frozen=True, slots=True)
class WorkerCall:
    """`cpus`: those that Ray keeps free for it; `environment`: variables that change what it computes."""

    driver: Appointment
    version: str  # of pagecli
    cpus: int
    environment: Mapping[str, str]


class RemoteWorker:
    """The actor."""

    def run(self, call: WorkerCall) -> None:
        """Returns when the driver has hung up. Raises RuntimeError, OSError."""
        if call.version != pagecli.__version__:
            here = f"pagecli {pagecli.__version__} is installed on {os.uname().nodename}"
            raise RuntimeError(f"{here}, and {call.version} with the driver")
        end_with_parent()  # Ray's process on this host
        os.environ.update(call.environment)
        from pagecli.engine.loaded_model import usable_cores

        per_cpu = usable_cores() / len(os.sched_getaffinity(0))
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(call.cpus * per_cpu)))
        serve(connect(call.driver))
