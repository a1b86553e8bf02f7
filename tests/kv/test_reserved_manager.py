"""Contiguous reservations: runs for a request's sequences, copies at forks, everything back at the end."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from pagecli.kv.baselines.reserved_manager import ReservedManager


def test_a_sequence_holds_consecutive_blocks_from_the_start():
    kv = ReservedManager(64, 16)
    kv.hold(7, 100, 1)
    assert kv.block_table(7) == range(7)
    assert (kv.num_used_blocks, kv.pool.num_used, kv.num_filled_slots) == (7, 8, 0)
    assert kv.reserve(7, 100)
    with pytest.raises(AssertionError, match="more slots than were ever asked for"):
        kv.reserve(7, 113)


def test_a_sample_copies_what_its_parent_has_computed():
    kv = ReservedManager(64, 4)
    kv.hold(1, 16, 2)
    kv.record_filled([(1, 6, list(range(6)))])
    kv.fork(1, 2, 6)
    parent, child = kv.block_table(1), kv.block_table(2)
    assert not set(parent) & set(child)
    assert [(move.source, move.target) for move in kv.take_moves()] == list(zip(parent[:2], child[:2], strict=True))
    assert kv.num_filled_slots == 12


def test_runs_of_samples_that_were_never_forked_go_with_their_request():
    kv = ReservedManager(64, 4)
    kv.hold(1, 16, 3)
    kv.free(1)
    assert kv.pool.num_free == 64
    assert kv.num_used_blocks == 0


def test_runs_that_are_still_to_be_forked_outlive_the_first_sequence():
    kv = ReservedManager(64, 4)
    kv.hold(1, 16, 3)
    kv.record_filled([(1, 4, list(range(4)))])
    kv.fork(1, 2, 4)
    kv.free(1)
    kv.fork(2, 3, 4)
    kv.check_integrity()
    kv.free(2)
    kv.free(3)
    assert kv.pool.num_free == 64


def test_what_each_block_holds_can_be_seen():
    kv = ReservedManager(8, 4)
    kv.hold(1, 9, 1)
    kv.record_filled([(1, 6, list(range(6)))])
    assert kv.filled_slots() == [4, 2, 0, 0, 0, 0, 0, 0]
    counts, cached = kv.pool.snapshot()
    assert counts == [1, 1, 1, 1, 0, 0, 0, 0]
    assert counts == [kv.pool.ref_count(block_id) for block_id in range(8)]
    assert cached == []


class AnyUseOfReservations(RuleBasedStateMachine):
    """Requests of one to three sequences that grow, fork and leave; memory holds real tokens, carried along by the moves."""

    @initialize(num_blocks=st.integers(1, 60), block_size=st.integers(1, 4))
    def make(self, num_blocks, block_size):
        self.kv = ReservedManager(num_blocks, block_size)
        self.size = block_size
        self.cache = [None] * num_blocks * block_size
        self.texts: dict[int, list[int]] = {}
        self.limits: dict[int, int] = {}
        self.to_fork: dict[int, list[int]] = {}  # one list for all sequences of a request
        self.next_id = 0

    def slot(self, seq_id, at):
        return self.kv.block_table(seq_id)[at // self.size] * self.size + at % self.size

    def move(self):
        for move in self.kv.take_moves():
            source, target = move.source * self.size, move.target * self.size
            self.cache[target : target + self.size] = self.cache[source : source + self.size]

    @rule(num_slots=st.integers(1, 40), num_sequences=st.integers(1, 3))
    def hold(self, num_slots, num_sequences):
        if self.kv.fits(num_slots, num_sequences):
            assert self.kv.fits_when_empty(num_slots, num_sequences)
            self.next_id += 1
            self.kv.hold(self.next_id, num_slots, num_sequences)
            self.texts[self.next_id] = []
            self.limits[self.next_id] = num_slots
            self.to_fork[self.next_id] = [num_sequences - 1]

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), count=st.integers(1, 8))
    def write(self, data, count):
        seq_id = data.draw(st.sampled_from(sorted(self.texts)))
        text = self.texts[seq_id]
        self.move()
        for _ in range(min(count, self.limits[seq_id] - len(text))):
            token = seq_id * 1000 + len(text)
            assert self.kv.reserve(seq_id, len(text) + 1)
            self.cache[self.slot(seq_id, len(text))] = token
            text.append(token)
        self.kv.record_filled([(seq_id, len(text), text)])

    @precondition(lambda self: any(left[0] for left in self.to_fork.values()))
    @rule(data=st.data())
    def fork(self, data):
        parent = data.draw(st.sampled_from(sorted(s for s, left in self.to_fork.items() if left[0])))
        self.next_id += 1
        self.kv.fork(parent, self.next_id, len(self.texts[parent]))
        self.texts[self.next_id] = list(self.texts[parent])
        self.limits[self.next_id] = self.limits[parent]
        self.to_fork[self.next_id] = self.to_fork[parent]
        self.to_fork[parent][0] -= 1
        self.move()

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def free(self, data):
        seq_id = data.draw(st.sampled_from(sorted(self.texts)))
        self.kv.free(seq_id)
        for known in (self.texts, self.limits, self.to_fork):
            del known[seq_id]
        assert not self.kv.has_table(seq_id)

    @invariant()
    def every_sequence_reads_its_own_text(self):
        if hasattr(self, "kv"):
            self.kv.check_integrity()
            for seq_id, text in self.texts.items():
                assert [self.cache[self.slot(seq_id, at)] for at in range(len(text))] == text
            assert self.kv.num_filled_slots == sum(map(len, self.texts.values())) == sum(self.kv.filled_slots())

    def teardown(self):
        if hasattr(self, "kv"):
            for seq_id in list(self.texts):
                self.kv.free(seq_id)
            assert self.kv.pool.num_free == self.kv.pool.num_blocks
            self.kv.check_integrity()


@pytest.mark.slow
def test_any_use_of_reservations():
    any_use = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(AnyUseOfReservations, settings=any_use)
