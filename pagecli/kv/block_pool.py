"""The physical KV blocks: which are free, and how many block tables hold each of the others. Numbers only, no memory."""


class BlockPool:
    """`num_blocks` blocks with reference counts. The block freed last is handed out first: its memory is warm."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free_ids = list(range(num_blocks - 1, -1, -1))
        self._ref_counts = [0] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free_ids)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free_ids)

    def ref_count(self, block_id: int) -> int:
        return self._ref_counts[block_id]

    def take(self, num_blocks: int) -> list[int]:
        """Hand out `num_blocks` free blocks, each with one reference. Raises ValueError if there are not so many."""
        if num_blocks > len(self._free_ids):
            raise ValueError(f"{num_blocks} blocks asked for, {len(self._free_ids)} free")
        taken = [self._free_ids.pop() for _ in range(num_blocks)]
        for block_id in taken:
            self._ref_counts[block_id] = 1
        return taken

    def share(self, block_id: int) -> None:
        """One more block table holds this used block."""
        if self._ref_counts[block_id] == 0:
            raise ValueError(f"block {block_id} is free and cannot be shared")
        self._ref_counts[block_id] += 1

    def release(self, block_id: int) -> None:
        """One block table fewer holds this block; it is free when none does."""
        if self._ref_counts[block_id] == 0:
            raise ValueError(f"block {block_id} is released twice")
        self._ref_counts[block_id] -= 1
        if self._ref_counts[block_id] == 0:
            self._free_ids.append(block_id)

    def check_integrity(self, expected_ref_counts: dict[int, int]) -> None:
        """Raise AssertionError unless free + used = total and every reference count is the expected one (absent: 0)."""
        free = set(self._free_ids)
        assert len(free) == len(self._free_ids), "a block is twice on the free list"
        for block_id, count in enumerate(self._ref_counts):
            assert count == expected_ref_counts.get(block_id, 0), f"block {block_id}: ref count {count} is wrong"
            assert (count == 0) == (block_id in free), f"block {block_id}: ref count {count}, free: {block_id in free}"
