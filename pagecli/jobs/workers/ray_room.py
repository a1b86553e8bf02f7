"""What a Ray cluster has, as plain data."""

from dataclasses import dataclass

LOCAL, AUTO = "local", "auto"  # in place of an address


@dataclass(frozen=True, slots=True)
class Node:
    """A host of the cluster, as Ray counts it."""

    host: str
    cpus: int
    gpus: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Room:
    """The cluster's hosts, what nobody has reserved of all of them, and the address at which they see this one."""

    nodes: tuple[Node, ...]
    free_cpus: float
    free_gpus: float
    own_address: str
