"""Carries out the KV manager's block moves: copies on write, and swaps between the cache and the swap pool."""

import time
from itertools import groupby

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.block_moves import BlockMove, MoveKind
from pagecli.devices.cpu import kernels
from pagecli.devices.step_inputs import KVCache


class BlockMover:
    """Moves blocks of all layers, in the order given. `swap` has the cache's shape but for its number of blocks."""

    def __init__(self, cache: KVCache[Array], swap: KVCache[Array] | None = None) -> None:
        self.swap_seconds = 0.0
        self._planes = list(zip(cache.keys + cache.values, self._tensors(swap, cache), strict=True))

    @staticmethod
    def _tensors(swap: KVCache[Array] | None, cache: KVCache[Array]) -> list[Array]:
        return swap.keys + swap.values if swap is not None else cache.keys + cache.values

    def carry_out(self, moves: list[BlockMove]) -> None:
        """Run the moves, those of one kind that follow each other in one call for each layer's K and V."""
        for kind, group in groupby(moves, key=lambda move: move.kind):
            pairs = np.array([(move.source, move.target) for move in group], dtype=np.int64)
            started = time.perf_counter()
            for cache, swap in self._planes:
                target = swap if kind is MoveKind.SWAP_OUT else cache
                source = swap if kind is MoveKind.SWAP_IN else cache
                kernels.copy_blocks(target, source, pairs)
            if kind is not MoveKind.COPY:
                self.swap_seconds += time.perf_counter() - started
