"""KV memory as systems before paging managed it: a sequence holds one run of consecutive blocks from its start to its end.

    hold(7, 100 slots), block_size 16:   blocks 32 ... 38 are its own (7 asked for), block 39 is lost to the run of 8
    block table                          range(32, 39): consecutive, so the kernels that read paged tables read it too

Nothing is shared and nothing grows: what a sequence may need is taken at the start, out of a buddy allocator, and samples of
one prompt copy it (Yu et al., OSDI 2022; baselines of Kwon et al., SOSP 2023, section 6.1). KVManager's interface otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pagecli.core.step_plan import BlockMove, KVUsage, MoveKind
from pagecli.kv.baselines.buddy import BuddyAllocator
from pagecli.kv.block_pool import BlockPool


@dataclass(slots=True)
class _Group:
    """The runs of one request: those of its sequences, and spare ones for samples that are still to be forked."""

    num_slots: int  # that each run was asked to hold
    spares: list[int] = field(default_factory=list)  # first blocks
    num_members: int = 0


@dataclass(slots=True)
class _Held:
    group: _Group
    block_ids: range
    num_filled: int = 0


class RunPool:
    """BlockPool's counters for contiguous memory: the blocks of a run are used, its rounding included."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_cached = 0
        self.buddy = BuddyAllocator(num_blocks)

    @property
    def num_free(self) -> int:
        return self.buddy.num_free

    @property
    def num_available(self) -> int:
        return self.buddy.num_free

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.buddy.num_free

    @property
    def num_shared(self) -> int:
        """Blocks that two sequences hold: always 0."""
        return 0

    def ref_count(self, block_id: int) -> int:
        """1 for a block inside a run, 0 for a free one."""
        return int(any(first <= block_id < first + length for first, length in self.buddy.runs().items()))

    def snapshot(self) -> tuple[list[int], list[int]]:
        """Every block's reference count, and the ids of cached blocks, of which there are none."""
        counts = [0] * self.num_blocks
        for first, length in self.buddy.runs().items():
            counts[first : first + length] = [1] * length
        return counts, []


class ReservedManager:
    """Gives every sequence, known by its id, one contiguous run of blocks that holds all it may ever store."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.pool = RunPool(num_blocks)
        self.swap_pool = BlockPool(0)
        self.index = None  # no prefix caching: blocks are not shared
        self.num_copy_on_write = 0  # no copy on write: fork() copies the slots
        self.num_swapped_blocks = 0
        self._empty = BuddyAllocator(num_blocks)
        self._held: dict[int, _Held] = {}
        self._num_filled = 0
        self._num_reserved_blocks = 0
        self._moves: list[BlockMove] = []

    @property
    def num_free_blocks(self) -> int:
        return self.pool.num_free

    @property
    def num_used_blocks(self) -> int:
        """Blocks that sequences and samples still to be forked asked for, without those that rounding adds."""
        return self._num_reserved_blocks

    @property
    def num_table_entries(self) -> int:
        """num_used_blocks: no two sequences share a block."""
        return self._num_reserved_blocks

    @property
    def num_filled_slots(self) -> int:
        return self._num_filled

    @property
    def usage(self) -> float:
        """Blocks inside runs, rounding included / blocks, 0 to 1."""
        return self.pool.num_used / self.pool.num_blocks

    def snapshot(self) -> KVUsage:
        """KVUsage at this moment."""
        held, pool = self._num_reserved_blocks, self.pool
        return KVUsage(pool.num_blocks, pool.num_used, held, 0, pool.num_free, 0, held, self._num_filled)

    def filled_slots(self) -> list[int]:
        """How many slots of each block hold a token's K and V."""
        filled = [0] * self.pool.num_blocks
        for held in self._held.values():
            for at, block_id in enumerate(held.block_ids[: self.num_blocks_for(held.num_filled)]):
                filled[block_id] = min(self.block_size, held.num_filled - at * self.block_size)
        return filled

    def num_blocks_for(self, num_slots: int) -> int:
        return -(-num_slots // self.block_size)

    def has_table(self, seq_id: int) -> bool:
        return seq_id in self._held

    def block_table(self, seq_id: int) -> range:
        """The sequence's blocks, filled or not."""
        return self._held[seq_id].block_ids

    def block_tables(self, seq_ids: Sequence[int]) -> list[range]:
        """Each one's block_table()."""
        return list(map(self.block_table, seq_ids))

    def take_moves(self) -> list[BlockMove]:
        moves, self._moves = self._moves, []
        return moves

    def fits(self, num_slots: int, num_sequences: int) -> bool:
        """Whether runs for so many sequences of so many slots each are free now."""
        return self.pool.buddy.fits(self.num_blocks_for(num_slots), num_sequences)

    def fits_when_empty(self, num_slots: int, num_sequences: int) -> bool:
        """Whether they would be free if all memory were."""
        return self._empty.fits(self.num_blocks_for(num_slots), num_sequences)

    def hold(self, seq_id: int, num_slots: int, num_sequences: int) -> None:
        """Take a run of `num_slots` for the sequence, and one for each of the samples that will be forked from it.

        Precondition: fits(num_slots, num_sequences).
        """
        group = _Group(num_slots)
        for _ in range(num_sequences):
            first = self.pool.buddy.take(self.num_blocks_for(num_slots))
            assert first is not None, "a run was asked for that does not fit"
            group.spares.append(first)
        self._num_reserved_blocks += num_sequences * self.num_blocks_for(num_slots)
        self._join(group, seq_id)

    def _join(self, group: _Group, seq_id: int) -> _Held:
        first = group.spares.pop()
        group.num_members += 1
        held = self._held[seq_id] = _Held(group, range(first, first + self.num_blocks_for(group.num_slots)))
        return held

    def reserve(self, seq_id: int, num_slots: int) -> bool:
        """Always True: hold() reserved all slots of the sequence."""
        assert num_slots <= len(self._held[seq_id].block_ids) * self.block_size, "more slots than were ever asked for"
        return True

    def reserve_next(self, seq_ids: list[int]) -> bool:
        """Always True, as reserve()."""
        return True

    def record_filled(self, sequences: Iterable[tuple[int, int, list[int]]]) -> None:
        """Of each sequence (seq_id, num_slots, token_ids), the first `num_slots` slots now hold K and V."""
        for seq_id, num_slots, _ in sequences:
            held = self._held[seq_id]
            self._num_filled += num_slots - held.num_filled
            held.num_filled = num_slots

    def shrink(self, seq_id: int) -> None:
        """Nothing: a sequence keeps its run."""

    def fork(self, parent_id: int, child_id: int, num_slots: int) -> None:
        """The child takes one of the spare runs; the parent's first `num_slots` slots are copied into it."""
        parent = self._held[parent_id]
        assert num_slots <= parent.num_filled, "a fork of slots that hold nothing"
        child = self._join(parent.group, child_id)
        child.num_filled = num_slots
        self._num_filled += num_slots
        pairs = zip(parent.block_ids, child.block_ids[: self.num_blocks_for(num_slots)], strict=False)
        self._moves += [BlockMove(MoveKind.COPY, source, target) for source, target in pairs]

    def free(self, seq_id: int) -> None:
        """Release the sequence's run, and with the last of a request's sequences the spare runs. Nothing if it has none."""
        held = self._held.pop(seq_id, None)
        if held is None:
            return
        self._num_filled -= held.num_filled
        self._give_back(held.block_ids.start, held.group)
        held.group.num_members -= 1
        if held.group.num_members == 0:
            for first in held.group.spares:
                self._give_back(first, held.group)

    def _give_back(self, first: int, group: _Group) -> None:
        self.pool.buddy.release(first)
        self._num_reserved_blocks -= self.num_blocks_for(group.num_slots)

    def prompt_hashes(self, token_ids: list[int], variant: bytes = b"") -> list[bytes]:
        return []

    def num_cached_blocks(self, hashes: list[bytes]) -> tuple[int, int]:
        return 0, 0

    def adopt_prefix(self, seq_id: int, hashes: list[bytes], token_ids: list[int], variant: bytes = b"") -> int:
        """Always 0: there is no prefix cache."""
        return 0

    def forget_contents(self) -> None:
        """Does nothing: there is no prefix cache."""

    def can_swap_out(self, seq_ids: list[int]) -> bool:
        return False

    def swap_out(self, seq_ids: list[int]) -> None:
        raise AssertionError("sequences that hold what they need are not swapped")

    def num_swapped_out(self, seq_ids: list[int]) -> int:
        return 0

    def swap_in(self, seq_ids: list[int]) -> bool:
        raise AssertionError("nothing was swapped out")

    def check_integrity(self) -> None:
        """Raise AssertionError unless the runs of sequences and spare ones are those the allocator knows, none held twice."""
        self.pool.buddy.check_integrity()
        groups = {id(held.group): held.group for held in self._held.values()}
        needed = [self.num_blocks_for(group.num_slots) for group in groups.values() for _ in group.spares]
        needed += [len(held.block_ids) for held in self._held.values()]
        firsts = [first for group in groups.values() for first in group.spares]
        firsts += [held.block_ids.start for held in self._held.values()]
        runs = self.pool.buddy.runs()
        assert sorted(firsts) == sorted(runs), "runs lost, or held twice"
        assert all(runs[first] >= length for first, length in zip(firsts, needed, strict=True)), "a run is too short"
        assert self._num_reserved_blocks == sum(needed), "reserved blocks miscounted"
        for held in self._held.values():
            assert held.num_filled <= len(held.block_ids) * self.block_size, "filled slots without a block"
        assert self._num_filled == sum(held.num_filled for held in self._held.values()), "filled slots miscounted"
        for group in groups.values():
            members = sum(held.group is group for held in self._held.values())
            assert group.num_members == members, "members of a request miscounted"
