"""A file of weights in memory only as far as it is being read."""

import mmap
from pathlib import Path

import numpy as np

from pagecli.core.arrays import Array


class MappedFile:
    """`path`, mapped copy-on-write: copied to a GPU, read-only views make torch warn."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def __len__(self) -> int:
        return len(self._map)

    def bytes(self, start: int, end: int) -> bytes:
        return self._map[start:end]

    def view(self, start: int, end: int) -> Array:
        """Bytes start .. end as an array of uint8, without a copy; start < end <= len(self)."""
        return np.frombuffer(self._map, dtype=np.uint8, count=end - start, offset=start)

    def release(self) -> None:
        """Release the pages read so far, which would else stay in memory beside the packed weights. Views stay valid."""
        self._map.madvise(mmap.MADV_DONTNEED)
