"""CUDA graphs of steps that only decode: one for each size of batch, captured when that size comes for the second time."""

from collections.abc import Callable

from pagecli.devices.cuda.errors import DeviceMemoryError, DeviceRefusedError
from pagecli.devices.cuda.steps.step_buffers import GraphKey
from pagecli.devices.cuda.streams import Gpu, Graph

STEPS = ((8, 128), (16, 256), (32, 512), (64, 1 << 30))  # of batch sizes, each up to one


def batch_sizes(max_num_seqs: int) -> list[int]:
    """The sizes that batches are padded to: 1, 2, 4, multiples of 8 up to 128, of 16 up to 256, of 32 up to 512, of 64 beyond,
    and the largest itself: at 1,024 43 of them, and from 32 rows on no more than an eighth of a batch is padding."""
    sizes, size = {1, 2, 4, max_num_seqs}, 0
    for step, end in STEPS:
        while size < min(end, max_num_seqs):
            size += step
            sizes.add(size)
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
