"""Carries out block moves on a GPU: all layers in one launch. Copies within the cache are part of the steps' stream; swaps run
beside it, on the side stream, and a step waits only for those of blocks that it uses."""

import time
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from pagecli.core.step_plan import BlockMove, MoveKind
from pagecli.devices.base import KVCache
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.streams import Event, Gpu

if TYPE_CHECKING:
    import torch


class CudaBlockMover:
    """BlockMover for a cache on the GPU and a swap pool in pinned host memory."""

    def __init__(self, device: Gpu, cache: "KVCache[torch.Tensor]", swap: "KVCache[torch.Tensor] | None" = None) -> None:
        self.swap_seconds = 0.0  # of the host: the copies themselves run beside it
        self._device = device
        self._held = (cache, swap)  # the planes hold addresses
        on_gpu = cache.keys + cache.values
        self._block_bytes = on_gpu[0][0].nbytes
        self._planes = {MoveKind.COPY: kernels.block_planes(on_gpu, on_gpu, device.place)}
        if swap is not None and swap.keys[0].shape[0] > 0:
            on_host = swap.keys + swap.values
            self._planes[MoveKind.SWAP_OUT] = kernels.block_planes(on_host, on_gpu, device.place)
            self._planes[MoveKind.SWAP_IN] = kernels.block_planes(on_gpu, on_host, device.place)
        self._swaps: list[Event] = []  # in the side stream's order
        self._num_awaited = 0  # by the compute stream: swaps it knows to be done
        self._swap_of: dict[int, int] = {}  # cache block -> the last swap that reads or writes it, as an index of _swaps

    def carry_out(self, moves: list[BlockMove]) -> None:
        """Queue the moves, those of one kind that follow each other in as few launches as their order allows."""
        for kind, group in groupby(moves, key=lambda move: move.kind):
            pairs = [(move.source, move.target) for move in group]
            if kind is MoveKind.COPY:
                self._copy(pairs)
                continue
            started = time.perf_counter()
            self._swap(kind, pairs)
            self.swap_seconds += time.perf_counter() - started

    def before_use(self, block_ids: Iterable[int]) -> None:
        """Let the compute stream wait for the swaps of these blocks, before it reads or writes them."""
        if not self._swap_of:
            return
        swaps = [self._swap_of[block_id] for block_id in self._swap_of.keys() & set(block_ids)]
        last = max(swaps, default=-1)
        if last < self._num_awaited:
            return
        self._device.compute.wait(self._swaps[last])
        self._num_awaited = last + 1
        self._swap_of = {block: swap for block, swap in self._swap_of.items() if swap > last}

    def forget_swaps(self) -> None:
        """All streams are idle: there is nothing to wait for."""
        self._swaps.clear()
        self._swap_of.clear()
        self._num_awaited = 0

    def _copy(self, pairs: list[tuple[int, int]]) -> None:
        self.before_use(block_id for pair in pairs for block_id in pair)
        planes, block_bytes = self._planes[MoveKind.COPY], self._block_bytes
        self._device.compute.submit(lambda: kernels.copy_blocks(planes, pairs, block_bytes))

    def _swap(self, kind: MoveKind, pairs: list[tuple[int, int]]) -> None:
        """Swapped out is what the steps queued so far have written; swapped in over what they may still read."""
        side, planes, block_bytes = self._device.side, self._planes[kind], self._block_bytes
        side.wait(self._device.compute.record())
        side.submit(lambda: kernels.swap_blocks(planes, pairs, block_bytes))
        if not self._swap_of:
            self.forget_swaps()
        self._swaps.append(side.record())
        for source, target in pairs:
            self._swap_of[source if kind is MoveKind.SWAP_OUT else target] = len(self._swaps) - 1
