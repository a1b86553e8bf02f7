"""A Ray cluster whose hosts are all this one: prints the address of its head; each line read adds a host of 1 CPU; ends with
its input. Run as a process of its own, so that a test's process never loads Ray."""

import sys

from ray.cluster_utils import Cluster

SETTINGS = {"num_cpus": 1, "object_store_memory": 80 << 20}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**SETTINGS, "include_dashboard": False})
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.add_node(**SETTINGS)
        print("added", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
