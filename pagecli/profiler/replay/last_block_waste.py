"""Waste by block size: slots past a sequence's last token in its last block, exactly, by arithmetic.

    block_size 16, a sequence of 20 tokens:   [16 filled][4 filled, 12 empty]   12 of 32 slots held are empty in this step
Averaged over all steps of all requests' lives, as if each ran alone: the batch does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pagecli.errors import UsageError
from pagecli.profiler.replay.slot_ledger import sum_of_blocks
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest

DEFAULT_BLOCK_SIZES = (1, 8, 16, 32, 64, 128, 256)
MAX_BLOCK_SIZE = 256


@dataclass(frozen=True, slots=True)
class BlockSizeWaste:
    """Of one workload."""

    workload: str
    block_size: int
    wasted_percent: float  # of the slots in blocks that requests hold, those without a token


def waste_by_block_size(workload: Workload, block_sizes: Sequence[int]) -> list[BlockSizeWaste]:
    """The waste of each size, in their order."""
    return [BlockSizeWaste(workload.name, size, 100 * wasted_share(workload.requests, size)) for size in block_sizes]


def wasted_share(requests: Sequence[WorkloadRequest], block_size: int) -> float:
    """Empty slots / slots held, over all steps. In its step j a request of p prompt tokens has filled p + j - 1 slots."""
    prompts = np.array([r.prompt_tokens for r in requests], dtype=np.int64)
    outputs = np.array([r.output_tokens for r in requests], dtype=np.int64)
    filled = int((outputs * prompts + outputs * (outputs - 1) // 2).sum())
    blocks = int((sum_of_blocks(prompts + outputs - 1, block_size) - sum_of_blocks(prompts - 1, block_size)).sum())
    return 1 - filled / (blocks * block_size)


def parse_block_sizes(text: str) -> tuple[int, ...]:
    """Sizes out of "1,8,16,...,256", where "..." continues by doubling. Raises UsageError."""
    sizes: list[int] = []
    words = [word.strip() for word in text.split(",")]
    for at, word in enumerate(words):
        if word == "..." and sizes and at + 1 < len(words) and words[at + 1].isdecimal():
            while sizes[-1] * 2 < int(words[at + 1]):
                sizes.append(sizes[-1] * 2)
        elif word.isdecimal() and 1 <= int(word) <= MAX_BLOCK_SIZE:
            sizes.append(int(word))
        else:
            hint = f"give sizes from 1 to {MAX_BLOCK_SIZE}, as 1,8,16,32 or 8,...,256"
            raise UsageError(f"--block-sizes {text}: {word!r} is not a block size", hint)
    return tuple(dict.fromkeys(sizes))
