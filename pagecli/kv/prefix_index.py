"""Full blocks by their content: a chained hash of their tokens and of all tokens before them.

Two blocks with one hash hold the same tokens at the same positions after the same prefix, so one block's K and V serve both
(Kwon et al., SOSP 2023, section 4.4, shared prefix). The salt separates caches of different weights or adapters.
"""

from array import array
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
