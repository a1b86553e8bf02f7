"""The physical KV blocks: free, used (held by block tables, counted), or cached (held by none, kept for their content).

Numbers only, no memory. free + used + cached = total.

Full blocks are found by their content: a chained hash of their tokens and of all tokens before them. Two blocks with one hash
hold the same tokens at the same positions after the same prefix, so one block's K and V serve both (Kwon et al., SOSP 2023,
section 4.4, shared prefix). The salt separates caches of different weights or adapters.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from itertools import islice


def chain_hash(parent: bytes, token_ids: list[int]) -> bytes:
    """Hash of one full block, given the hash of the block before it (the salt for the first): 16 bytes of BLAKE2b."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


def block_hashes(salt: bytes, token_ids: list[int], block_size: int, num_blocks: int) -> list[bytes]:
    """The chained hashes of the first `num_blocks` full blocks of a text."""
    hashes, parent = [], salt
    for first in range(0, num_blocks * block_size, block_size):
        parent = chain_hash(parent, token_ids[first : first + block_size])
        hashes.append(parent)
    return hashes


MAX_COMPARED = 32  # blocks whose tokens are compared for a partial match, latest first


class PrefixIndex:
    """A map from content hash to block, one to one.

    A block is also found by its first token after the same prefix (find_partial): it serves as far as its tokens match.
    """

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._text_of: dict[bytes, tuple[bytes, list[int]]] = {}  # hash -> parent's hash, the block's tokens
        self._after: dict[tuple[bytes, int], dict[bytes, list[int]]] = {}  # parent's hash, first token -> hash -> tokens

    def find(self, block_hash: bytes) -> int | None:
        return self._block_of.get(block_hash)

    def find_partial(self, parent: bytes, token_ids: list[int]) -> tuple[int, int]:
        """(block id, number of leading tokens of `token_ids` it matches): the longest match after `parent`; (-1, 0): none."""
        best, longest = -1, 0
        candidates = self._after.get((parent, token_ids[0]), {}) if token_ids else {}
        for block_hash, tokens in islice(reversed(candidates.items()), MAX_COMPARED):
            if longest < len(token_ids) and tokens[: longest + 1] == token_ids[: longest + 1]:  # longer than the best so far
                pairs = zip(tokens, token_ids, strict=False)
                longest = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(token_ids)))
                best = self._block_of[block_hash]
        return best, longest

    def holds(self, block_id: int) -> bool:
        return block_id in self._hash_of

    def add(self, block_hash: bytes, block_id: int, parent: bytes, token_ids: list[int]) -> None:
        """Make the block, full of these tokens, findable, unless another with the same content is already.

        Without its tokens (they are not kept for swapped-out blocks) it is found as a whole only.
        """
        if block_hash not in self._block_of:
            self._block_of[block_hash] = block_id
            self._hash_of[block_id] = block_hash
            if token_ids:
                self._text_of[block_hash] = (parent, token_ids)
                self._after.setdefault((parent, token_ids[0]), {})[block_hash] = token_ids

    def forget(self, block_id: int) -> None:
        """Remove the block, whose content is about to be overwritten."""
        block_hash = self._hash_of.pop(block_id, None)
        if block_hash is None:
            return
        del self._block_of[block_hash]
        if block_hash in self._text_of:
            parent, token_ids = self._text_of.pop(block_hash)
            siblings = self._after[parent, token_ids[0]]
            del siblings[block_hash]
            if not siblings:
                del self._after[parent, token_ids[0]]

    def items(self) -> list[tuple[bytes, int]]:
        return list(self._block_of.items())


class BlockPool:
    """`num_blocks` blocks with reference counts. The block freed last is allocated first: its memory is in the cache.

    A block released with `keep` stays cached until all free blocks are taken; then the one cached longest ago goes first, and
    `on_evict(block_id)` is called. At most `max_cached` are kept, so that caching does not touch memory the job never needed.
    """

    def __init__(self, num_blocks: int, on_evict: Callable[[int], None] | None = None, max_cached: int | None = None) -> None:
        self.num_blocks = num_blocks
        self._max_cached = num_blocks if max_cached is None else max_cached
        # To be read, not changed, from outside:
        self.free_ids = list(range(num_blocks - 1, -1, -1))  # neither used nor cached
        self.cached_ids: OrderedDict[int, None] = OrderedDict()  # held by no table, kept for their content; oldest first
        self.ref_counts = [0] * num_blocks  # of each block
        self.num_shared = 0  # used blocks that more than one table holds
        self._on_evict = on_evict

    @property
    def num_free(self) -> int:
        return len(self.free_ids)

    @property
    def num_cached(self) -> int:
        return len(self.cached_ids)

    @property
    def num_available(self) -> int:
        """Blocks that can be taken: free ones, and cached ones by eviction."""
        return len(self.free_ids) + len(self.cached_ids)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def ref_count(self, block_id: int) -> int:
        return self.ref_counts[block_id]

    def snapshot(self) -> tuple[list[int], list[int]]:
        """Copies of every block's reference count, and of the ids of cached blocks."""
        return self.ref_counts[:], list(self.cached_ids)

    def take(self) -> int:
        """Allocate a block with one reference, evicting a cached one if none is free. Raises ValueError if there is none."""
        if self.free_ids:
            block_id = self.free_ids.pop()
        elif self.cached_ids:
            block_id = self._evict()
        else:
            raise ValueError("a block was asked for, and none is free")
        self.ref_counts[block_id] = 1
        return block_id

    def _evict(self) -> int:
        block_id, _ = self.cached_ids.popitem(last=False)
        if self._on_evict is not None:
            self._on_evict(block_id)
        return block_id

    def drop_cached(self) -> None:
        """Free all cached blocks."""
        while self.cached_ids:
            self.free_ids.append(self._evict())

    def share(self, block_id: int) -> None:
        """Add a reference to this used or cached block: one more block table holds it."""
        if self.ref_counts[block_id] == 0:
            if block_id not in self.cached_ids:
                raise ValueError(f"block {block_id} is free and cannot be shared")
            del self.cached_ids[block_id]
        self.ref_counts[block_id] += 1
        self.num_shared += self.ref_counts[block_id] == 2

    def release(self, block_id: int, keep: bool = False) -> bool:
        """Remove a reference. True if it was the last; the block is then cached (`keep`) or free."""
        if self.ref_counts[block_id] == 0:
            raise ValueError(f"block {block_id} is released twice")
        self.ref_counts[block_id] -= 1
        self.num_shared -= self.ref_counts[block_id] == 1
        if self.ref_counts[block_id] > 0:
            return False
        if keep:
            self.cached_ids[block_id] = None
            if len(self.cached_ids) > self._max_cached:
                self.free_ids.append(self._evict())
        else:
            self.free_ids.append(block_id)
        return True

    def check_integrity(self, expected_ref_counts: dict[int, int]) -> None:
        """Raise AssertionError unless free + used + cached = total and every reference count is as expected (absent: 0)."""
        free, cached = set(self.free_ids), set(self.cached_ids)
        assert len(free) == len(self.free_ids), "a block is twice on the free list"
        assert not free & cached, "a block is both free and cached"
        expected = [0] * len(self.ref_counts)
        for block_id, count in expected_ref_counts.items():
            expected[block_id] = count
        if self.ref_counts != expected:  # compared whole: a roomy pool has thousands of blocks, after every step
            wrong = {i: count for i, count in enumerate(self.ref_counts) if count != expected[i]}
            raise AssertionError(f"ref counts are wrong: {wrong}")
        assert self.num_shared == sum(count > 1 for count in expected_ref_counts.values()), "shared blocks miscounted"
        held = {block_id for block_id, count in expected_ref_counts.items() if count > 0}
        wrong_ids = (free | cached) ^ held ^ set(range(len(expected)))
        assert not wrong_ids, f"blocks {sorted(wrong_ids)} are both held and idle, or neither"
