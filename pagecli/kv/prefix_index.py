"""Finding full blocks by what they hold: a chained hash of their tokens and of everything before them.

Two blocks with one hash hold the same tokens at the same positions after the same prefix, so one block's K and V serve both
(Kwon et al., SOSP 2023, section 4.4, shared prefix). The salt keeps apart what must not meet: other weights, another adapter.
"""

from array import array
from hashlib import blake2b


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


class PrefixIndex:
    """Which block holds the content of which hash; one block a hash, one hash a block."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    def find(self, block_hash: bytes) -> int | None:
        return self._block_of.get(block_hash)

    def holds(self, block_id: int) -> bool:
        return block_id in self._hash_of

    def add(self, block_hash: bytes, block_id: int) -> None:
        """Make the block findable, unless another with the same content is already."""
        if block_hash not in self._block_of:
            self._block_of[block_hash] = block_id
            self._hash_of[block_id] = block_hash

    def forget(self, block_id: int) -> None:
        """The block's content is about to be overwritten."""
        block_hash = self._hash_of.pop(block_id, None)
        if block_hash is not None:
            del self._block_of[block_hash]

    def items(self) -> list[tuple[bytes, int]]:
        return list(self._block_of.items())
