"""CUDA graphs of steps that only decode: one for each size of batch, captured when that size comes for the second time."""

from collections.abc import Callable

from pagecli.devices.cuda.errors import DeviceMemoryError, DeviceRefusedError
from pagecli.devices.cuda.steps.step_buffers import GraphKey
from pagecli.devices.cuda.streams import Gpu, Graph

STEP = 8  # of batch sizes beyond it


def batch_sizes(max_num_seqs: int) -> list[int]:
    """The sizes that batches are padded to: 1, 2, 4, multiples of 8, and the largest itself."""
    sizes = {1, 2, 4, max_num_seqs} | set(range(STEP, max_num_seqs, STEP))
    return sorted(size for size in sizes if size <= max_num_seqs)


class GraphStore:
    """Keeps up to `max_graphs`: as many as memory was set aside for. The rest run kernel by kernel, with the same result."""

    def __init__(self, device: Gpu, max_graphs: int) -> None:
        self.max_graphs = max_graphs
        self._device = device
        self._seen: set[GraphKey] = set()
        self._graphs: dict[GraphKey, Graph] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def find(self, key: GraphKey, work: Callable[[], object]) -> Graph | None:
        """The graph of steps of this shape, captured from `work` now if it is the second one; None: run it by itself.

        The first has to run by itself: it loads kernels and lets libraries set up what a capture must not.
        """
        graph = self._graphs.get(key)
        if graph is not None or len(self._graphs) >= self.max_graphs:
            return graph
        if key not in self._seen:
            self._seen.add(key)
            return None
        try:
            graph = self._graphs[key] = self._device.capture(work)
        except (DeviceMemoryError, DeviceRefusedError):  # the memory is gone, or a capture failed: go on without more graphs
            self.max_graphs = len(self._graphs)
        return graph
