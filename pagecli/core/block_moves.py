"""Blocks to be copied before a step runs: on write, to the swap pool, or back from it."""

from dataclasses import dataclass
from enum import Enum


class MoveKind(Enum):
    COPY = "copy"  # cache block -> cache block
    SWAP_OUT = "swap out"  # cache block -> swap block
    SWAP_IN = "swap in"  # swap block -> cache block


@dataclass(frozen=True, slots=True)
class BlockMove:
    """All layers' K and V of block `source` go to block `target`; later moves see what earlier ones did."""

    kind: MoveKind
    source: int
    target: int
