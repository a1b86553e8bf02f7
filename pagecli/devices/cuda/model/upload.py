"""Matrices on their way to a GPU, through two pieces of pinned memory: while one goes over, the host fills the other.

From pageable memory the driver copies through pieces of its own, one after the other: 3 to 6 GB/s, of the 50 of PCIe 5.
"""

from functools import partial

import torch

from pagecli.devices.cuda.streams import Event, Gpu

PIECE_BYTES = 32 << 20


class Uploader:
    """Not for several threads. The pinned memory is there from the first matrix until the uploader goes."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._pieces: list[torch.Tensor] = []
        self._sent: list[Event | None] = [None, None]  # of each piece: what was copied from it last

    def upload(self, matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """matrix (of the host) as this type on the GPU, contiguous; it is there when this returns."""
        gpu, out = self._gpu, self._gpu.empty(*matrix.shape, dtype=dtype)
        if not self._pieces:
            self._pieces = [gpu.pinned(PIECE_BYTES, dtype=torch.uint8) for _ in self._sent]
        given, taken = matrix.contiguous().view(-1), out.view(-1)
        size = PIECE_BYTES // dtype.itemsize
        for number, first in enumerate(range(0, len(given), size)):
            at = number % len(self._sent)
            sent, part = self._sent[at], slice(first, min(first + size, len(given)))
            if sent is not None:
                sent.wait()
            piece = self._pieces[at].view(dtype)[: part.stop - part.start]
            piece.copy_(given[part])
            gpu.side.submit(partial(taken[part].copy_, piece, non_blocking=True))
            self._sent[at] = gpu.side.record()
        for sent in self._sent:
            if sent is not None:
                sent.wait()
        self._sent = [None, None]
        return out
