"""Where processes run: the CPUs of the NUMA nodes that this process may use, dealt out."""

import os
from pathlib import Path


def numa_nodes(root: Path = Path("/sys/devices/system/node")) -> list[list[int]]:
    """The CPUs of each NUMA node that this process may use, ascending; one node of all of them where the system tells none."""
    usable, nodes = os.sched_getaffinity(0), []
    for folder in sorted(root.glob("node[0-9]*"), key=lambda path: int(path.name.removeprefix("node"))):
        try:
            cpus = sorted(usable.intersection(parse_cpus((folder / "cpulist").read_text())))
        except (OSError, ValueError):
            continue
        if cpus:
            nodes.append(cpus)
    return nodes or [sorted(usable)]


def parse_cpus(text: str) -> list[int]:
    """[0, 1, 2, 3, 8] of the kernel's "0-3,8"."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def placement(count: int, nodes: list[list[int]] | None = None) -> list[list[int]]:
    """The CPUs of each of `count` processes: those of whole NUMA nodes, which are dealt out in turn; none spans more nodes than
    it has to. Within a node the operating system places them."""
    nodes = numa_nodes() if nodes is None else nodes
    if count >= len(nodes):
        return [nodes[process % len(nodes)] for process in range(count)]
    return [sorted(cpu for node in nodes[process::count] for cpu in node) for process in range(count)]
