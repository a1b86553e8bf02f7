"""The flags of jobs over several processes: --workers, --worker-timeout, ... (--shard is among those that choose rows)."""

from typing import Annotated

from pagecli.cli.flags.engine_and_sampling import option

PANEL = "Several processes"

Workers = Annotated[
    str | None,
    option(
        "Engines, each in a process of its own with the whole model, that share the rows. auto: one for each NUMA node; "
        "with --ray as many as there is room for.",
        PANEL,
        "--workers",
        metavar="N|auto",
    ),
]
Ray = Annotated[
    str | None,
    option(
        "Workers on the hosts of a Ray cluster: its head's HOST:PORT, auto (the one running here), local (one for this job).",
        PANEL,
        "--ray",
        metavar="ADDRESS",
    ),
]
RayPort = Annotated[
    int,
    option(
        "The port of this process that workers of a Ray cluster connect to. 0: any free one.",
        PANEL,
        "--ray-port",
        metavar="PORT",
        min=0,
        max=65535,
    ),
]
AllowMixedHardware = Annotated[
    bool,
    option(
        "Compute rows with whatever instruction set a machine has: the last bits of a sum, and so texts, may differ.",
        PANEL,
        "--allow-mixed-hardware",
    ),
]
WorkerTimeout = Annotated[
    float,
    option(
        "A process that is not heard of for so many seconds is ended and replaced.",
        PANEL,
        "--worker-timeout",
        metavar="SECONDS",
        min=1.0,
    ),
]
TensorParallelSize = Annotated[
    str,
    option(
        "Processes that share the model: each has a shard of the weights and of the KV cache, on GPUs one each. auto: as few "
        "as have room in the memory of a NUMA node, or of a GPU, each.",
        PANEL,
        "--tensor-parallel-size",
        metavar="N|auto",
    ),
]
SumSegments = Annotated[
    int | None,
    option(
        "Sum in so many parts, as N processes that share the model do: the same text on any number of them. Default: N.",
        PANEL,
        "--sum-segments",
        metavar="N",
        min=1,
    ),
]
