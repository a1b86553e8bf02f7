"""Any use of the KV manager, held against an independent model: memory that really holds tokens, and lists of whole texts.

The model knows for every sequence which text its slots must hold, and carries the manager's moves out on two arrays. Whatever
is shared, copied, evicted or swapped, each sequence must read its own text back through its block table.
"""

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from nightly import share

from pagecli.core.step_plan import MoveKind
from pagecli.kv.manager import KVManager

NUM_OPERATIONS = Counter()


class AnyUseOfTheManager(RuleBasedStateMachine):
    """Sequences that start, grow, fork, leave, are swapped out and in; texts over three tokens, so that prefixes meet."""

    @initialize(
        num_blocks=st.integers(1, 14),
        block_size=st.integers(1, 4),
        swap_blocks=st.integers(0, 10),
        prefix_caching=st.booleans(),
    )
    def make(self, num_blocks, block_size, swap_blocks, prefix_caching):
        self.kv = KVManager(num_blocks, block_size, prefix_caching, swap_blocks)
        self.size = block_size
        self.cache = [[None] * block_size for _ in range(num_blocks)]
        self.swap = [[None] * block_size for _ in range(swap_blocks)]
        self.texts: dict[int, list[int]] = {}  # of sequences in the cache: what their filled slots hold
        self.swapped: dict[int, list[int]] = {}
        self.next_id = 0

    def new_id(self):
        self.next_id += 1
        return self.next_id

    def move(self):
        for move in self.kv.take_moves():
            source = self.swap if move.kind is MoveKind.SWAP_IN else self.cache
            target = self.swap if move.kind is MoveKind.SWAP_OUT else self.cache
            target[move.target] = list(source[move.source])

    def write(self, seq_id, tokens):
        """Append the tokens to the sequence's text, if blocks suffice."""
        text = self.texts[seq_id]
        held = self.kv.block_table(seq_id) if self.kv.has_table(seq_id) else []
        copies = len(text) % self.size != 0 and self.kv.pool.ref_count(held[len(text) // self.size]) > 1
        needed = -(-(len(text) + len(tokens)) // self.size) - len(held) + copies
        free_before = self.kv.num_free_blocks
        assert self.kv.reserve(seq_id, len(text) + len(tokens)) == (needed <= free_before)
        if needed > free_before:
            assert self.kv.num_free_blocks == free_before
            return
        assert self.kv.num_free_blocks == free_before - needed
        self.move()
        table = self.kv.block_table(seq_id)
        for at, token in enumerate(tokens, start=len(text)):
            block_id = table[at // self.size]
            assert self.kv.pool.ref_count(block_id) == 1, "a shared block is written"
            self.cache[block_id][at % self.size] = token
        self.texts[seq_id] = [*text, *tokens]
        self.kv.record_filled([(seq_id, len(self.texts[seq_id]), self.texts[seq_id])])

    @rule(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=12))
    def start(self, tokens):
        seq_id = self.new_id()
        hashes = self.kv.prompt_hashes(tokens)
        found, idle = self.kv.num_cached_blocks(hashes)
        free_before = self.kv.num_free_blocks
        num_slots = self.kv.adopt_prefix(seq_id, hashes, tokens)
        assert found * self.size <= num_slots < len(tokens)
        assert num_slots < (found + 1) * self.size
        copied = num_slots > found * self.size
        assert self.kv.num_free_blocks == free_before - idle - copied
        self.move()
        self.texts[seq_id] = tokens[:num_slots]
        self.write(seq_id, tokens[num_slots:])

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), tokens=st.lists(st.integers(0, 2), min_size=1, max_size=6))
    def grow(self, data, tokens):
        self.write(data.draw(st.sampled_from(sorted(self.texts))), tokens)

    @precondition(lambda self: any(self.kv.has_table(seq_id) for seq_id in self.texts))
    @rule(data=st.data(), token=st.integers(0, 2))
    def decode(self, data, token):
        """A token more for each of several sequences: all of them, or none."""
        held = sorted(seq_id for seq_id in self.texts if self.kv.has_table(seq_id))
        seq_ids = data.draw(st.lists(st.sampled_from(held), unique=True, min_size=1))
        before = {seq_id: list(self.kv.block_table(seq_id)) for seq_id in seq_ids}
        free_before = self.kv.num_free_blocks
        if not self.kv.reserve_next(seq_ids):
            assert {seq_id: list(self.kv.block_table(seq_id)) for seq_id in seq_ids} == before
            assert self.kv.num_free_blocks == free_before < len(seq_ids)
            return
        free_after = self.kv.num_free_blocks
        for seq_id in seq_ids:
            self.write(seq_id, [token])
        assert self.kv.num_free_blocks == free_after, "every slot had been reserved"

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), whole_blocks=st.booleans())
    def fork(self, data, whole_blocks):
        parent = data.draw(st.sampled_from(sorted(self.texts)))
        num_slots = len(self.texts[parent])
        if whole_blocks:
            num_slots = data.draw(st.integers(0, num_slots // self.size)) * self.size
        child, used_before = self.new_id(), self.kv.num_used_blocks
        self.kv.fork(parent, child, num_slots)
        self.texts[child] = self.texts[parent][:num_slots]
        assert self.kv.num_used_blocks == used_before, "a fork takes no block"

    @precondition(lambda self: self.texts or self.swapped)
    @rule(data=st.data())
    def free(self, data):
        seq_id = data.draw(st.sampled_from(sorted([*self.texts, *self.swapped])))
        self.kv.free(seq_id)
        self.texts.pop(seq_id, None)
        self.swapped.pop(seq_id, None)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def swap_out(self, data):
        group = data.draw(st.lists(st.sampled_from(sorted(self.texts)), min_size=1, max_size=3, unique=True))
        blocks = {block_id for seq_id in group for block_id in self.kv.block_table(seq_id)}
        room = self.kv.swap_pool.num_available
        assert self.kv.can_swap_out(group) == (len(blocks) <= room)
        if len(blocks) <= room:
            self.kv.swap_out(group)
            self.move()
            assert self.kv.swap_pool.num_available == room - len(blocks), "a shared block moves once"
            for seq_id in group:
                text = self.texts.pop(seq_id)
                if text:
                    self.swapped[seq_id] = text

    @precondition(lambda self: self.swapped)
    @rule(data=st.data())
    def swap_in(self, data):
        group = data.draw(st.lists(st.sampled_from(sorted(self.swapped)), min_size=1, max_size=3, unique=True))
        needed, room = self.kv.num_swapped_out(group), self.kv.num_free_blocks
        assert self.kv.swap_in(group) == (needed <= room)
        if needed <= room:
            self.move()
            for seq_id in group:
                self.texts[seq_id] = self.swapped.pop(seq_id)

    @invariant()
    def all_is_as_the_model_says(self):
        if not hasattr(self, "kv"):
            return
        NUM_OPERATIONS["done"] += 1
        self.kv.check_integrity()
        pool = self.kv.pool
        assert pool.num_free + pool.num_used + pool.num_cached == pool.num_blocks
        holders = Counter(block_id for seq_id in self.texts for block_id in self.kv.block_table(seq_id))
        assert [pool.ref_count(i) for i in range(pool.num_blocks)] == [holders[i] for i in range(pool.num_blocks)]
        assert self.kv.num_table_entries == holders.total()
        for seq_id, text in self.texts.items():
            table = self.kv.block_table(seq_id)
            assert [self.cache[table[i // self.size]][i % self.size] for i in range(len(text))] == text
        self.cached_blocks_hold_what_their_hash_says()

    def cached_blocks_hold_what_their_hash_says(self):
        """Hashes are recomputed from the root: every findable block has the tokens that its hash was made of."""
        if self.kv.index is None:
            return
        findable = dict(self.kv.index.items())
        for text in [*self.texts.values(), *self.swapped.values()]:
            for at, block_hash in enumerate(self.kv.prompt_hashes([*text, 0])):
                if block_hash in findable:
                    assert self.cache[findable[block_hash]] == text[at * self.size : (at + 1) * self.size]
        for block_id in findable.values():
            assert None not in self.cache[block_id], "only full blocks can be found"


SETTINGS = settings(deadline=None, stateful_step_count=40, suppress_health_check=list(HealthCheck))


def test_any_use_of_the_manager():
    NUM_OPERATIONS.clear()
    run_state_machine_as_test(AnyUseOfTheManager, settings=settings(SETTINGS, max_examples=20))
    assert NUM_OPERATIONS["done"] > 100  # the machine asserts the rest after each of them


@pytest.mark.slow
def test_any_use_of_the_manager_for_thousands_of_operations():
    NUM_OPERATIONS.clear()
    run_state_machine_as_test(AnyUseOfTheManager, settings=settings(SETTINGS, max_examples=share(700)))
    assert NUM_OPERATIONS["done"] >= share(10_000)
