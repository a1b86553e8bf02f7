"""The physical KV blocks: free, used (held by block tables, counted), or cached (held by none, kept for their content).

Numbers only, no memory. free + used + cached = total.
"""

from collections import OrderedDict
from collections.abc import Callable


class BlockPool:
    """`num_blocks` blocks with reference counts. The block freed last is allocated first: its memory is in the cache.

    A block released with `keep` stays cached until all free blocks are taken; then the one cached longest ago goes first, and
    `on_evict(block_id)` is called. At most `max_cached` are kept, so that caching does not touch memory the job never needed.
    """

    def __init__(self, num_blocks: int, on_evict: Callable[[int], None] | None = None, max_cached: int | None = None) -> None:
        self.num_blocks = num_blocks
        self._max_cached = num_blocks if max_cached is None else max_cached
        self._free_ids = list(range(num_blocks - 1, -1, -1))
        self._cached_ids: OrderedDict[int, None] = OrderedDict()  # oldest first
        self.ref_counts = [0] * num_blocks  # of each block; read it, do not change it
        self._num_shared = 0
        self._on_evict = on_evict

    @property
    def num_free(self) -> int:
        """Blocks that are neither used nor cached."""
        return len(self._free_ids)

    @property
    def num_cached(self) -> int:
        """Blocks that no table holds, kept because a later prefix may match their content."""
        return len(self._cached_ids)

    @property
    def num_available(self) -> int:
        """Blocks that can be taken: free ones, and cached ones by eviction."""
        return len(self._free_ids) + len(self._cached_ids)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    @property
    def num_shared(self) -> int:
        """Used blocks that more than one table holds."""
        return self._num_shared

    def ref_count(self, block_id: int) -> int:
        return self.ref_counts[block_id]

    def snapshot(self) -> tuple[list[int], list[int]]:
        """Copies of every block's reference count, and of the ids of cached blocks."""
        return self.ref_counts[:], list(self._cached_ids)

    def take(self) -> int:
        """Allocate a block with one reference, evicting a cached one if none is free. Raises ValueError if there is none."""
        if self._free_ids:
            block_id = self._free_ids.pop()
        elif self._cached_ids:
            block_id = self._evict()
        else:
            raise ValueError("a block was asked for, and none is free")
        self.ref_counts[block_id] = 1
        return block_id

    def _evict(self) -> int:
        block_id, _ = self._cached_ids.popitem(last=False)
        if self._on_evict is not None:
            self._on_evict(block_id)
        return block_id

    def drop_cached(self) -> None:
        """Free all cached blocks."""
        while self._cached_ids:
            self._free_ids.append(self._evict())

    def share(self, block_id: int) -> None:
        """Add a reference to this used or cached block: one more block table holds it."""
        if self.ref_counts[block_id] == 0:
            if block_id not in self._cached_ids:
                raise ValueError(f"block {block_id} is free and cannot be shared")
            del self._cached_ids[block_id]
        self.ref_counts[block_id] += 1
        self._num_shared += self.ref_counts[block_id] == 2

    def release(self, block_id: int, keep: bool = False) -> bool:
        """Remove a reference. True if it was the last; the block is then cached (`keep`) or free."""
        if self.ref_counts[block_id] == 0:
            raise ValueError(f"block {block_id} is released twice")
        self.ref_counts[block_id] -= 1
        self._num_shared -= self.ref_counts[block_id] == 1
        if self.ref_counts[block_id] > 0:
            return False
        if keep:
            self._cached_ids[block_id] = None
            if len(self._cached_ids) > self._max_cached:
                self._free_ids.append(self._evict())
        else:
            self._free_ids.append(block_id)
        return True

    def check_integrity(self, expected_ref_counts: dict[int, int]) -> None:
        """Raise AssertionError unless free + used + cached = total and every reference count is as expected (absent: 0)."""
        free, cached = set(self._free_ids), set(self._cached_ids)
        assert len(free) == len(self._free_ids), "a block is twice on the free list"
        assert not free & cached, "a block is both free and cached"
        assert self._num_shared == sum(count > 1 for count in self.ref_counts), "shared blocks miscounted"
        for block_id, count in enumerate(self.ref_counts):
            assert count == expected_ref_counts.get(block_id, 0), f"block {block_id}: ref count {count} is wrong"
            idle = block_id in free or block_id in cached
            assert (count == 0) == idle, f"block {block_id}: ref count {count}, idle: {idle}"
