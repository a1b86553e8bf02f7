"""Block tables: which physical blocks hold each sequence's K and V. The only part of kv/ that the scheduler sees.

    sequence 7, 37 tokens, block_size 16:   block table [ 4 | 9 | 2 ]
    block 4: 16 slots filled    block 9: 16 filled    block 2: 5 filled, 11 waiting for tokens

A block is assigned when a token needs a slot in it and not before, so at most block_size - 1 slots of a sequence are ever
assigned and empty (Kwon et al., SOSP 2023, sections 4.2 and 4.3).
"""

from collections import Counter
from dataclasses import dataclass, field

from pagecli.kv.block_pool import BlockPool


@dataclass(slots=True)
class _Table:
    block_ids: list[int] = field(default_factory=list)
    num_filled: int = 0  # slots that hold a token's K and V


class KVManager:
    """Assigns blocks of `block_size` slots to sequences, known by their ids."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.pool = BlockPool(num_blocks)
        self._tables: dict[int, _Table] = {}
        self._num_filled = 0

    @property
    def num_free_blocks(self) -> int:
        return self.pool.num_free

    @property
    def num_used_blocks(self) -> int:
        return self.pool.num_used

    @property
    def num_filled_slots(self) -> int:
        """Slots, over all sequences, that hold a token's K and V."""
        return self._num_filled

    @property
    def usage(self) -> float:
        """Used blocks / blocks, 0 to 1."""
        return self.pool.num_used / self.pool.num_blocks

    def num_blocks_for(self, num_slots: int) -> int:
        """Blocks that `num_slots` slots of one sequence take."""
        return -(-num_slots // self.block_size)

    def reserve(self, seq_id: int, num_slots: int) -> bool:
        """Grow the sequence's table to at least `num_slots` slots. False, and nothing changed, if the blocks are not free."""
        table = self._tables.get(seq_id)
        missing = self.num_blocks_for(num_slots) - (len(table.block_ids) if table else 0)
        if missing > self.pool.num_free:
            return False
        if table is None:
            table = self._tables[seq_id] = _Table()
        if missing > 0:
            table.block_ids.extend(self.pool.take(missing))
        return True

    def block_table(self, seq_id: int) -> list[int]:
        """The sequence's physical blocks in logical order; read it, do not change it."""
        return self._tables[seq_id].block_ids

    def record_filled(self, seq_id: int, num_slots: int) -> None:
        """The sequence's first `num_slots` slots now hold K and V."""
        table = self._tables[seq_id]
        assert num_slots <= len(table.block_ids) * self.block_size, "filled slots without a block"
        self._num_filled += num_slots - table.num_filled
        table.num_filled = num_slots

    def free(self, seq_id: int) -> None:
        """Give the sequence's blocks back; nothing if it has none."""
        table = self._tables.pop(seq_id, None)
        if table is None:
            return
        self._num_filled -= table.num_filled
        for block_id in reversed(table.block_ids):
            self.pool.release(block_id)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block is free or held by as many tables as its reference count says."""
        held = Counter(block_id for table in self._tables.values() for block_id in table.block_ids)
        self.pool.check_integrity(held)
        assert self._num_filled == sum(table.num_filled for table in self._tables.values()), "filled slots miscounted"
        for seq_id, table in self._tables.items():
            assert table.num_filled <= len(table.block_ids) * self.block_size, f"sequence {seq_id}: slots without a block"
