"""Block tables: blocks are assigned when tokens need them, given back whole, and always accounted for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pagecli.kv.block_pool import BlockPool
from pagecli.kv.manager import KVManager


def test_a_block_is_assigned_only_when_a_token_needs_a_slot_in_it():
    kv = KVManager(num_blocks=8, block_size=4)
    assert kv.reserve(1, 4)
    assert kv.num_used_blocks == 1
    assert kv.reserve(1, 5)
    assert kv.num_used_blocks == 2
    assert kv.reserve(1, 8)
    assert kv.num_used_blocks == 2


def test_a_reservation_that_does_not_fit_changes_nothing():
    kv = KVManager(num_blocks=3, block_size=4)
    assert kv.reserve(1, 8)
    table = list(kv.block_table(1))
    assert not kv.reserve(1, 17)
    assert not kv.reserve(2, 5)
    assert kv.block_table(1) == table
    assert kv.num_free_blocks == 1
    kv.check_integrity()


def test_blocks_return_when_a_sequence_is_freed_and_freeing_twice_is_harmless():
    kv = KVManager(num_blocks=3, block_size=4)
    kv.reserve(1, 12)
    kv.record_filled(1, 9)
    kv.free(1)
    kv.free(1)
    assert kv.num_free_blocks == 3
    assert kv.num_filled_slots == 0


def test_a_shared_block_is_free_only_when_nobody_holds_it():
    pool = BlockPool(2)
    (block_id,) = pool.take(1)
    pool.share(block_id)
    pool.release(block_id)
    assert pool.num_free == 1
    pool.release(block_id)
    assert pool.num_free == 2


@pytest.mark.parametrize(
    "misuse",
    [lambda pool: pool.take(3), lambda pool: pool.share(0), lambda pool: pool.release(0)],
    ids=["take", "share", "release"],
)
def test_taking_too_much_and_touching_a_free_block_are_refused(misuse):
    with pytest.raises(ValueError, match="block"):
        misuse(BlockPool(2))


def test_check_integrity_sees_a_lost_block():
    kv = KVManager(num_blocks=4, block_size=2)
    kv.reserve(1, 4)
    kv.block_table(1).pop()
    with pytest.raises(AssertionError, match="ref count"):
        kv.check_integrity()


@given(st.integers(1, 64), st.integers(0, 5000))
def test_a_sequence_never_has_a_whole_empty_block(block_size, num_slots):
    kv = KVManager(num_blocks=-(-5000 // block_size), block_size=block_size)
    assert kv.reserve(0, num_slots)
    assert 0 <= len(kv.block_table(0)) * block_size - num_slots < block_size


class AnyUseOfTheManager(RuleBasedStateMachine):
    """Random reserve, fill and free; a dictionary of lengths is the truth it is held against."""

    @initialize(num_blocks=st.integers(1, 12), block_size=st.integers(1, 5))
    def make(self, num_blocks, block_size):
        self.kv = KVManager(num_blocks, block_size)
        self.reserved: dict[int, int] = {}
        self.filled: dict[int, int] = {}

    @rule(seq_id=st.integers(0, 5), num_slots=st.integers(1, 30))
    def reserve(self, seq_id, num_slots):
        wanted = max(num_slots, self.reserved.get(seq_id, 0))
        blocks = {s: self.kv.num_blocks_for(n) for s, n in self.reserved.items()} | {seq_id: self.kv.num_blocks_for(wanted)}
        fits = sum(blocks.values()) <= self.kv.pool.num_blocks
        assert self.kv.reserve(seq_id, wanted) == fits
        if fits:
            self.reserved[seq_id] = wanted

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def fill(self, data):
        seq_id = data.draw(st.sampled_from(sorted(self.reserved)))
        filled = data.draw(st.integers(self.filled.get(seq_id, 0), self.reserved[seq_id]))
        self.kv.record_filled(seq_id, filled)
        self.filled[seq_id] = filled

    @rule(seq_id=st.integers(0, 5))
    def free(self, seq_id):
        self.kv.free(seq_id)
        self.reserved.pop(seq_id, None)
        self.filled.pop(seq_id, None)

    @invariant()
    def everything_is_accounted_for(self):
        if hasattr(self, "kv"):
            self.kv.check_integrity()
            assert self.kv.num_filled_slots == sum(self.filled.values())
            assert self.kv.num_used_blocks + self.kv.num_free_blocks == self.kv.pool.num_blocks


TestAnyUseOfTheManager = AnyUseOfTheManager.TestCase
TestAnyUseOfTheManager.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
