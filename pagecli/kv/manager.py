"""Block tables: which physical blocks hold each sequence's K and V. The only part of kv/ that the scheduler sees.

    sequence 7, 37 tokens, block_size 16:   block table [ 4 | 9 | 2 ]
    block 4: 16 slots filled    block 9: 16 filled    block 2: 5 filled, 11 waiting for tokens
    sequence 8, forked from 7:              block table [ 4 | 9 | 2 ]    no copy until one of the two writes into block 2

A block is assigned when a token needs a slot in it and not before, so at most block_size - 1 slots of a sequence are ever
assigned and empty. Blocks are shared by reference count, and copied one at a time when a sequence writes into a block that
others hold too (Kwon et al., SOSP 2023, sections 4.2 to 4.5).
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pagecli.core.step_plan import BlockMove, KVUsage, MoveKind
from pagecli.kv.block_pool import BlockPool, PrefixIndex, block_hashes, chain_hash


@dataclass(slots=True)
class _Table:
    block_ids: "array[int]" = field(default_factory=lambda: array("i"))
    num_filled: int = 0  # slots that hold a token's K and V
    hashes: list[bytes] = field(default_factory=list)  # of its leading full blocks
    salt: bytes = b""  # what its first block's hash follows


def _parent(table: _Table, at: int) -> bytes:
    """Hash of the block before the one at `at`; the first follows the salt."""
    return table.hashes[at - 1] if at else table.salt


LEAST_CACHED = 64  # blocks
CACHED_SHARE = 8  # of the pool, at most one in this many is kept for its content alone


class KVManager:
    """Assigns blocks of `block_size` slots to sequences, known by their ids.

    `num_swap_blocks` blocks outside the cache hold swapped-out sequences. The device moves the data: take_moves() returns
    the moves in order, to be carried out before the step's own writes.
    """

    def __init__(
        self, num_blocks: int, block_size: int, prefix_caching: bool = False, num_swap_blocks: int = 0, salt: bytes = b""
    ) -> None:
        self.block_size = block_size
        self.pool = BlockPool(num_blocks, self._evicted, max_cached=max(LEAST_CACHED, num_blocks // CACHED_SHARE))
        self.swap_pool = BlockPool(num_swap_blocks)
        self.index = PrefixIndex() if prefix_caching else None
        self.num_copy_on_write = 0
        self.num_swapped_blocks = 0
        self._salt = salt
        self._tables: dict[int, _Table] = {}
        self._swapped: dict[int, _Table] = {}
        self._block_filled = [0] * num_blocks  # slots filled, of used blocks
        self._num_filled = 0
        self._num_table_entries = 0
        self._moves: list[BlockMove] = []

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be assigned, cached ones included."""
        return self.pool.num_available

    @property
    def num_used_blocks(self) -> int:
        return self.pool.num_used

    @property
    def num_filled_slots(self) -> int:
        """Slots of used blocks that hold a token's K and V, each counted once however many sequences share it."""
        return self._num_filled

    @property
    def num_table_entries(self) -> int:
        """Blocks that the same sequences would use if none were shared."""
        return self._num_table_entries

    @property
    def usage(self) -> float:
        """Used blocks / blocks, 0 to 1."""
        return self.pool.num_used / self.pool.num_blocks

    def snapshot(self) -> KVUsage:
        """KVUsage at this moment."""
        pool = self.pool
        num_free, num_cached = len(pool.free_ids), len(pool.cached_ids)
        num_used = pool.num_blocks - num_free - num_cached
        blocks = (pool.num_blocks, num_used, num_used, num_cached, num_free, pool.num_shared)
        return KVUsage(*blocks, self._num_table_entries, self._num_filled)

    def filled_slots(self) -> list[int]:
        """A copy of how many slots of each block hold a token's K and V; 0 where no table holds the block."""
        return self._block_filled[:]

    def num_blocks_for(self, num_slots: int) -> int:
        """Blocks that `num_slots` slots of one sequence take."""
        return -(-num_slots // self.block_size)

    def has_table(self, seq_id: int) -> bool:
        return seq_id in self._tables

    def block_table(self, seq_id: int) -> "array[int]":
        """The sequence's physical blocks in logical order; read it, do not change it. It grows with the sequence."""
        return self._tables[seq_id].block_ids

    def block_tables(self, seq_ids: Sequence[int]) -> "list[array[int]]":
        """Each one's block_table()."""
        tables = self._tables
        return [tables[seq_id].block_ids for seq_id in seq_ids]

    def take_moves(self) -> list[BlockMove]:
        """The copies and swaps (BlockMove) decided since the last call, in the order in which the device carries them out."""
        moves, self._moves = self._moves, []
        return moves

    def reserve(self, seq_id: int, num_slots: int) -> bool:
        """Make slots from the first unfilled one up to `num_slots` writable. False, and no change, if too few blocks are free.

        Grows the table, and copies on write: where the next slot lies in a block that others hold too, the sequence gets a
        block of its own and a copy is queued.
        """
        table = self._tables.get(seq_id)
        num_held = len(table.block_ids) if table else 0
        missing = max(0, self.num_blocks_for(num_slots) - num_held)
        shared = self._shared_write_block(table, num_slots) if table else None
        if missing + (shared is not None) > self.pool.num_available:
            return False
        if table is None:
            table = self._tables[seq_id] = _Table(salt=self._salt)
        if shared is not None:
            self._copy_on_write(table, shared)
        table.block_ids.extend(self.pool.take() for _ in range(missing))
        self._num_table_entries += missing
        return True

    def reserve_next(self, seq_ids: list[int]) -> bool:
        """Make each sequence's first unfilled slot writable; all have blocks. False, and no change, if too few are free."""
        size, ref_counts = self.block_size, self.pool.ref_counts
        tables = list(map(self._tables.__getitem__, seq_ids))
        growing = [table for table in tables if table.num_filled == len(table.block_ids) * size]
        copying: list[_Table] = []
        if self.pool.num_shared:
            writing = [(table, *divmod(table.num_filled, size)) for table in tables]
            copying = [table for table, at, offset in writing if offset and ref_counts[table.block_ids[at]] > 1]
        if not growing and not copying:
            return True
        if len(growing) + len(copying) > self.pool.num_available:
            return False
        for table in copying:
            at = table.num_filled // size
            if ref_counts[table.block_ids[at]] > 1:  # the last sequence that shares the block keeps it
                self._copy_on_write(table, at)
        for table in growing:
            table.block_ids.append(self.pool.take())
        self._num_table_entries += len(growing)
        return True

    def _shared_write_block(self, table: _Table, num_slots: int) -> int | None:
        """Index in the table of the partly filled block that is about to be written while others hold it."""
        at, offset = divmod(table.num_filled, self.block_size)
        if offset == 0 or num_slots <= table.num_filled or at >= len(table.block_ids):
            return None
        return at if self.pool.ref_count(table.block_ids[at]) > 1 else None

    def _copy_on_write(self, table: _Table, at: int) -> None:
        source, target = table.block_ids[at], self.pool.take()
        self._release(source)
        self._moves.append(BlockMove(MoveKind.COPY, source, target))
        self._set_filled(target, table.num_filled % self.block_size)
        table.block_ids[at] = target
        self.num_copy_on_write += 1

    def record_filled(self, sequences: Iterable[tuple[int, int, list[int]]]) -> None:
        """Of each sequence (seq_id, num_slots, token_ids), the first `num_slots` slots now hold K and V, of these tokens; full
        blocks become findable."""
        tables, size, block_filled, num_new = self._tables, self.block_size, self._block_filled, 0
        for seq_id, num_slots, token_ids in sequences:
            table = tables[seq_id]
            block_ids, first, last = table.block_ids, table.num_filled // size, (num_slots - 1) // size
            for block_id in block_ids[first:last] if first < last else ():
                self._set_filled(block_id, size)
            block_id, num_in_last = block_ids[last], num_slots - last * size
            num_new += num_in_last - block_filled[block_id]
            block_filled[block_id] = num_in_last
            table.num_filled = num_slots
            if (num_in_last == size or first < last) and self.index is not None:
                self._publish(table, token_ids)
        self._num_filled += num_new

    def _publish(self, table: _Table, token_ids: list[int]) -> None:
        assert self.index is not None
        for at in range(len(table.hashes), table.num_filled // self.block_size):
            first = at * self.block_size
            parent, tokens = _parent(table, at), token_ids[first : first + self.block_size]
            table.hashes.append(chain_hash(parent, tokens))
            self.index.add(table.hashes[-1], table.block_ids[at], parent, tokens)

    def _set_filled(self, block_id: int, num_slots: int) -> None:
        self._num_filled += num_slots - self._block_filled[block_id]
        self._block_filled[block_id] = num_slots

    def prompt_hashes(self, token_ids: list[int], variant: bytes = b"") -> list[bytes]:
        """Chained hashes of the blocks a new sequence could take over: all full ones that leave a token to compute.

        Sequences of different variants share nothing: an adapter changes the K and V of the same tokens.
        """
        if self.index is None:
            return []
        return block_hashes(self._salt + variant, token_ids, self.block_size, (len(token_ids) - 1) // self.block_size)

    def num_cached_blocks(self, hashes: list[bytes]) -> tuple[int, int]:
        """How many leading blocks of the hashed text are in the cache, and how many of them no table holds."""
        assert self.index is not None or not hashes
        found = idle = 0
        for block_hash in hashes:
            block_id = self.index.find(block_hash) if self.index is not None else None
            if block_id is None:
                break
            found += 1
            idle += self.pool.ref_count(block_id) == 0
        return found, idle

    def adopt_prefix(self, seq_id: int, hashes: list[bytes], token_ids: list[int], variant: bytes = b"") -> int:
        """Start the sequence's table with the cached blocks of its prefix; returns the number of slots that they fill.

        Full blocks are shared. A block that matches the tokens after them in part is copied as far as it matches. `hashes` and
        `variant`: as of prompt_hashes.
        """
        table = self._tables[seq_id] = _Table(salt=self._salt + variant)
        for block_hash in hashes[: self.num_cached_blocks(hashes)[0]]:
            assert self.index is not None
            block_id = self.index.find(block_hash)
            assert block_id is not None
            self._hold(table, block_id, self.block_size)
            table.hashes.append(block_hash)
        table.num_filled = len(table.block_ids) * self.block_size
        if self.index is not None:
            self._adopt_part(table, token_ids)
        return table.num_filled

    def _adopt_part(self, table: _Table, token_ids: list[int]) -> None:
        """Adopt the leading slots of a cached block whose tokens match the next tokens in part, by copy on write."""
        assert self.index is not None
        at = len(table.block_ids)
        parent, first = _parent(table, at), at * self.block_size
        source, num_slots = self.index.find_partial(parent, token_ids[first : min(first + self.block_size, len(token_ids) - 1)])
        if num_slots == 0 or self.pool.num_available <= (self.pool.ref_count(source) == 0):  # the copy takes a block
            return
        self._hold(table, source, num_slots)
        table.num_filled += num_slots
        self._copy_on_write(table, at)

    def _hold(self, table: _Table, block_id: int, num_slots: int) -> None:
        self.pool.share(block_id)
        self._set_filled(block_id, max(num_slots, self._block_filled[block_id]))
        table.block_ids.append(block_id)
        self._num_table_entries += 1

    def shrink(self, seq_id: int) -> None:
        """Give back the sequence's last blocks that have no filled slot: those that were reserved for drafts."""
        table = self._tables[seq_id]
        for _ in range(len(table.block_ids) - self.num_blocks_for(table.num_filled)):
            self._release(table.block_ids.pop())
            self._num_table_entries -= 1

    def fork(self, parent_id: int, child_id: int, num_slots: int) -> None:
        """The child's first `num_slots` slots are the parent's: the blocks are shared, nothing is copied."""
        parent, child = self._tables[parent_id], _Table(num_filled=num_slots, salt=self._tables[parent_id].salt)
        assert num_slots <= parent.num_filled, "a fork of slots that hold nothing"
        for block_id in parent.block_ids[: self.num_blocks_for(num_slots)]:
            self._hold(child, block_id, 0)
        child.hashes = parent.hashes[: num_slots // self.block_size]
        self._tables[child_id] = child

    def free(self, seq_id: int) -> None:
        """Release the sequence's blocks, swapped out or not, last first (evicted first). Nothing if it has none."""
        table = self._tables.pop(seq_id, None)
        if table is not None:
            self._release_all(table)
        swapped = self._swapped.pop(seq_id, None)
        if swapped is not None:
            for block_id in swapped.block_ids:
                self.swap_pool.release(block_id)

    def _release_all(self, table: _Table) -> None:
        self._num_table_entries -= len(table.block_ids)
        for block_id in reversed(table.block_ids):
            self._release(block_id)

    def _release(self, block_id: int) -> None:
        """Remove a table's reference; without references the block stays cached if the prefix index can find it."""
        if self.pool.release(block_id, keep=self.index is not None and self.index.holds(block_id)):
            self._set_filled(block_id, 0)

    def _evicted(self, block_id: int) -> None:
        if self.index is not None:
            self.index.forget(block_id)

    def forget_contents(self) -> None:
        """Empty the prefix index: a failed step may have left blocks whose content is not what the index says."""
        self.pool.drop_cached()
        if self.index is not None:
            for _, block_id in self.index.items():
                self.index.forget(block_id)

    def can_swap_out(self, seq_ids: list[int]) -> bool:
        """Whether the swap pool has room for these sequences' blocks, shared ones counted once."""
        blocks = {block_id for seq_id in seq_ids if seq_id in self._tables for block_id in self._tables[seq_id].block_ids}
        return len(blocks) <= self.swap_pool.num_available

    def swap_out(self, seq_ids: list[int]) -> None:
        """Move the sequences' blocks to the swap pool; a block that several of them share moves once."""
        moved: dict[int, int] = {}
        for seq_id in seq_ids:
            table = self._tables.pop(seq_id, None)
            if table is None or not table.block_ids:
                continue
            self._swapped[seq_id] = _Table(self._swap_targets(table, moved), table.num_filled, table.hashes, table.salt)
            self._release_all(table)

    def _swap_targets(self, table: _Table, moved: dict[int, int]) -> "array[int]":
        targets = array("i")
        for at, block_id in enumerate(table.block_ids):
            if block_id in moved:
                self.swap_pool.share(moved[block_id])
            else:
                moved[block_id] = self.swap_pool.take()
                if at * self.block_size < table.num_filled:  # a block without a filled slot has nothing to move
                    self._moves.append(BlockMove(MoveKind.SWAP_OUT, block_id, moved[block_id]))
                    self.num_swapped_blocks += 1
            targets.append(moved[block_id])
        return targets

    def num_swapped_out(self, seq_ids: list[int]) -> int:
        """Blocks that these sequences hold in the swap pool, shared ones counted once."""
        return len({block_id for seq_id in seq_ids if seq_id in self._swapped for block_id in self._swapped[seq_id].block_ids})

    def swap_in(self, seq_ids: list[int]) -> bool:
        """Move swapped-out sequences back, shared as before. False, and no change, if too few blocks are free."""
        if self.num_swapped_out(seq_ids) > self.pool.num_available:
            return False
        moved: dict[int, int] = {}
        for seq_id in seq_ids:
            swapped = self._swapped.pop(seq_id, None)
            if swapped is None:
                continue
            table = self._tables[seq_id] = _Table(num_filled=swapped.num_filled, hashes=swapped.hashes, salt=swapped.salt)
            for at, source in enumerate(swapped.block_ids):
                num_slots = max(0, min(self.block_size, swapped.num_filled - at * self.block_size))
                self._swap_in_block(table, source, num_slots, moved)
            self._republish(table)
        return True

    def _republish(self, table: _Table) -> None:
        """Add swapped-in full blocks to the prefix index, unless another block with their content is in it."""
        if self.index is not None:
            for at, (block_hash, block_id) in enumerate(zip(table.hashes, table.block_ids, strict=False)):
                if not self.index.holds(block_id):
                    self.index.add(block_hash, block_id, _parent(table, at), [])

    def _swap_in_block(self, table: _Table, source: int, num_slots: int, moved: dict[int, int]) -> None:
        if source in moved:
            self._hold(table, moved[source], num_slots)
        else:
            moved[source] = target = self.pool.take()
            table.block_ids.append(target)
            self._num_table_entries += 1
            self._set_filled(target, num_slots)
            if num_slots > 0:
                self._moves.append(BlockMove(MoveKind.SWAP_IN, source, target))
        self.swap_pool.release(source)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block is free, cached, or held by as many tables as its reference count says."""
        tables = list(self._tables.values())
        self.pool.check_integrity(Counter(block_id for table in tables for block_id in table.block_ids))
        self.swap_pool.check_integrity(Counter(b for table in self._swapped.values() for b in table.block_ids))
        assert self._num_table_entries == sum(len(table.block_ids) for table in tables), "table entries miscounted"
        filled = [0] * self.pool.num_blocks
        for table in tables:
            assert table.num_filled <= len(table.block_ids) * self.block_size, "filled slots without a block"
            for at, block_id in enumerate(table.block_ids):
                in_block = max(0, min(self.block_size, table.num_filled - at * self.block_size))
                filled[block_id] = max(filled[block_id], in_block)
        assert self._block_filled == filled, "filled slots miscounted"
        assert self._num_filled == sum(filled), "filled slots miscounted"
