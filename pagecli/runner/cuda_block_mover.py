"""Carries out block moves on a GPU: all layers in one launch, in the order of the stream that also computes the steps."""

import time
from itertools import groupby

from pagecli.kernels import cuda
from pagecli.kv.moves import BlockMove, MoveKind
from pagecli.model.step_inputs import KVCache


class CudaBlockMover:
    """BlockMover for a cache on the GPU and a swap pool in pinned host memory."""

    def __init__(self, cache: KVCache, swap: KVCache | None = None) -> None:
        self.swap_seconds = 0.0  # of the host: the copies themselves run beside it
        self._held = (cache, swap)  # the planes hold addresses
        on_gpu = cache.keys + cache.values
        self._block_bytes = on_gpu[0][0].nbytes
        device = on_gpu[0].device
        self._planes = {MoveKind.COPY: cuda.block_planes(on_gpu, on_gpu, device)}
        if swap is not None and swap.keys[0].shape[0] > 0:
            on_host = swap.keys + swap.values
            self._planes[MoveKind.SWAP_OUT] = cuda.block_planes(on_host, on_gpu, device)
            self._planes[MoveKind.SWAP_IN] = cuda.block_planes(on_gpu, on_host, device)

    def carry_out(self, moves: list[BlockMove]) -> None:
        """Queue the moves, those of one kind that follow each other in as few launches as their order allows."""
        for kind, group in groupby(moves, key=lambda move: move.kind):
            pairs = [(move.source, move.target) for move in group]
            started = time.perf_counter()
            if kind is MoveKind.COPY:
                cuda.copy_blocks(self._planes[kind], pairs, self._block_bytes)
            else:
                cuda.swap_blocks(self._planes[kind], pairs, self._block_bytes)
                self.swap_seconds += time.perf_counter() - started
