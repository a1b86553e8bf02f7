"""A file of weights in memory only as far as it is being read."""

import mmap
from pathlib import Path

import torch


class MappedFile:
    """`path`, mapped copy-on-write: torch warns of read-only views, though nobody writes to these."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def __len__(self) -> int:
        return len(self._map)

    def bytes(self, start: int, end: int) -> bytes:
        return self._map[start:end]

    def view(self, start: int, end: int) -> torch.Tensor:
        """Bytes start .. end as a uint8 tensor, without a copy; start < end <= len(self)."""
        return torch.frombuffer(self._map, dtype=torch.uint8, count=end - start, offset=start)

    def release(self) -> None:
        """Let go of the pages read so far: they would stand beside the packed weights until the end. Views stay valid."""
        self._map.madvise(mmap.MADV_DONTNEED)
