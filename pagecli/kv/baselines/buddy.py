"""A binary buddy allocator over block ids: runs of a power of two of consecutive blocks (Knowlton, CACM 1965).

    15 blocks:  [0........7][8...11][12,13][14]      regions that no merging crosses: 8 + 4 + 2 + 1
    take(3):    [0..3]|4..7 |8...11 |12,13 |14       a run of 4 out of the smallest free one; its unused block is rounding

Contiguous KV caches are managed so in the systems that the paper compares with (Kwon et al., SOSP 2023, section 6.1).
"""


class BuddyAllocator:
    """Allocates runs of 2**order consecutive blocks of `num_blocks`, the lowest of the smallest that fit."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free: list[set[int]] = [set() for _ in range(num_blocks.bit_length())]  # first blocks, by order
        self._taken: dict[int, int] = {}  # first block -> order
        self._num_free = num_blocks
        first = 0
        for order in reversed(range(num_blocks.bit_length())):
            if num_blocks & 1 << order:
                self._free[order].add(first)
                first += 1 << order

    @property
    def num_free(self) -> int:
        """Blocks in no run, contiguous or not."""
        return self._num_free

    def run_length(self, first: int) -> int:
        """Blocks of the run that begins at `first`. Raises KeyError if none does."""
        return 1 << self._taken[first]

    def runs(self) -> dict[int, int]:
        """First block -> number of blocks, of every run that is taken."""
        return {first: 1 << order for first, order in self._taken.items()}

    def take(self, num_blocks: int) -> int | None:
        """First block of a run that holds `num_blocks` (at least 1), or None if no free run is long enough."""
        wanted = _order_of(num_blocks)
        found = next((order for order in range(wanted, len(self._free)) if self._free[order]), None)
        if found is None:
            return None
        first = min(self._free[found])
        self._free[found].remove(first)
        for order in range(found - 1, wanted - 1, -1):
            self._free[order].add(first + (1 << order))
        self._taken[first] = wanted
        self._num_free -= 1 << wanted
        return first

    def release(self, first: int) -> None:
        """Free the run that begins at `first`; it merges with its buddy while that is free and of equal length.

        Raises ValueError if no run begins there.
        """
        order = self._taken.pop(first, None)
        if order is None:
            raise ValueError(f"no run begins at block {first}")
        self._num_free += 1 << order
        while order + 1 < len(self._free) and (buddy := first ^ 1 << order) in self._free[order]:
            self._free[order].remove(buddy)
            first, order = min(first, buddy), order + 1
        self._free[order].add(first)

    def fits(self, num_blocks: int, num_runs: int) -> bool:
        """Whether so many runs of that length could be taken now."""
        wanted = _order_of(num_blocks)
        return sum(len(free) << order - wanted for order, free in enumerate(self._free) if order >= wanted) >= num_runs

    def check_integrity(self) -> None:
        """Raise AssertionError unless free and taken runs cover every block once and no two free buddies are left unmerged."""
        runs = [(first, 1 << order) for first, order in self._taken.items()]
        runs += [(first, 1 << order) for order, firsts in enumerate(self._free) for first in firsts]
        covered = 0
        for first, length in sorted(runs):
            assert first == covered, f"blocks from {covered} to {first} are lost, or held twice"
            assert first % length == 0, f"the run of {length} at block {first} is not aligned"
            covered += length
        assert covered == self.num_blocks, "blocks at the end are lost"
        assert self._num_free == sum(len(free) << order for order, free in enumerate(self._free)), "free blocks miscounted"
        for order, firsts in enumerate(self._free):
            assert not any(first ^ 1 << order in firsts for first in firsts), f"free buddies of {1 << order} blocks unmerged"


def _order_of(num_blocks: int) -> int:
    return (num_blocks - 1).bit_length()
