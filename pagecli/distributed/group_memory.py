"""Memory that a driver and its ranks share: an anonymous file, so that nothing of it is left when the last of them ends.

words        [ranks + 1, 16] int32: where ranks wait for each other (csrc/include/pagecli/rendezvous.h)
records      [4, record bytes] uint8: steps on their way to the ranks (step_record.py)
parts        by name [max tokens, hidden] float32: partial sums; each is written by the rank that computes it
best         [ranks, rows] int64 and float32: each rank's likeliest token and its logit
logits       [rows, vocabulary] float32: each rank writes its columns
"""

import math
import mmap
import os
from dataclasses import dataclass

import numpy as np

from pagecli.core.arrays import Array

NUM_RECORDS = 4
_ALIGNMENT = 4096  # bytes: ranks on other NUMA nodes share no page that they write


@dataclass(frozen=True, slots=True)
class GroupShape:
    """The sizes of a group's memory."""

    ranks: int
    record_bytes: int
    part_names: tuple[str, ...]
    max_tokens: int
    hidden_size: int
    vocab_size: int

    @property
    def max_rows(self) -> int:
        """Rows whose logits one step can want."""
        return self.max_tokens


class GroupMemory:
    """The memory, mapped; `fd` is its file, made if not given, with an empty one, `meeting_fd`, for torch.distributed. Raises
    OSError if there is too little memory."""

    def __init__(self, shape: GroupShape, fd: int | None = None) -> None:
        self.fd = os.memfd_create("pagecli-ranks") if fd is None else fd
        self.meeting_fd = os.memfd_create("pagecli-meeting") if fd is None else -1
        ranks, rows = shape.ranks, shape.max_rows
        sizes: list[tuple[str, tuple[int, ...], type]] = [
            ("words", (ranks + 1, 16), np.int32),
            ("records", (NUM_RECORDS, -(-shape.record_bytes // 64) * 64), np.uint8),
            ("best_tokens", (ranks, rows), np.int64),
            ("best_logits", (ranks, rows), np.float32),
            *((f"part {name}", (shape.max_tokens, shape.hidden_size), np.float32) for name in shape.part_names),
            ("logits", (rows, shape.vocab_size), np.float32),
        ]
        starts, end = [], 0
        for _, extent, dtype in sizes:
            starts.append(end)
            end += -(-math.prod(extent) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        if fd is None:
            os.ftruncate(self.fd, end)
        memory = mmap.mmap(self.fd, end, flags=mmap.MAP_SHARED)
        views: dict[str, Array] = {
            name: np.frombuffer(memory, dtype, math.prod(extent), start).reshape(extent)
            for (name, extent, dtype), start in zip(sizes, starts, strict=True)
        }
        self.words, self.records, self.logits = views["words"], views["records"], views["logits"]
        self.best_tokens, self.best_logits = views["best_tokens"], views["best_logits"]
        self.parts: dict[str, Array] = {name: views[f"part {name}"] for name in shape.part_names}

    def record(self, number: int) -> Array:
        """Where the record of step `number` is."""
        return self.records[number % NUM_RECORDS]

    def release(self) -> None:
        """Ends all waiting of ranks for each other."""
        self.words[-1, 0] = 1

    def close(self) -> None:
        """Views stay valid; the memory goes with the last process that has it mapped."""
        for fd in (self.fd, self.meeting_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.meeting_fd = -1
