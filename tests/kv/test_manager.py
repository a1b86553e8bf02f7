"""Block tables: blocks are assigned when tokens need them, shared, copied on write, kept for their content, swapped, freed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.core.step_plan import BlockMove, MoveKind
from pagecli.kv.block_pool import BlockPool
from pagecli.kv.manager import KVManager


def fill(kv, seq_id, token_ids):
    """Reserve and fill as many slots as there are tokens."""
    assert kv.reserve(seq_id, len(token_ids))
    kv.record_filled([(seq_id, len(token_ids), list(token_ids))])
    kv.check_integrity()


def test_a_block_is_assigned_only_when_a_token_needs_a_slot_in_it():
    kv = KVManager(num_blocks=8, block_size=4)
    for num_slots, num_blocks in ((4, 1), (5, 2), (8, 2)):
        assert kv.reserve(1, num_slots)
        assert kv.num_used_blocks == num_blocks


def test_a_reservation_that_does_not_fit_changes_nothing():
    kv = KVManager(num_blocks=3, block_size=4)
    assert kv.reserve(1, 8)
    table = list(kv.block_table(1))
    assert not kv.reserve(1, 17)
    assert not kv.reserve(2, 5)
    assert list(kv.block_table(1)) == table
    assert not kv.has_table(2)
    assert kv.num_free_blocks == 1
    kv.check_integrity()


def test_blocks_return_when_a_sequence_is_freed_and_freeing_twice_is_harmless():
    kv = KVManager(num_blocks=3, block_size=4)
    kv.reserve(1, 12)
    kv.record_filled([(1, 9, list(range(9)))])
    kv.free(1)
    kv.free(1)
    assert kv.num_free_blocks == 3
    assert kv.num_filled_slots == 0


def test_a_fork_shares_every_filled_block_and_copies_none():
    kv = KVManager(num_blocks=8, block_size=4)
    fill(kv, 1, range(10))
    kv.fork(1, 2, 10)
    assert kv.block_table(2) == kv.block_table(1)
    assert (kv.num_used_blocks, kv.num_table_entries, kv.num_filled_slots) == (3, 6, 10)
    assert kv.take_moves() == []
    kv.check_integrity()


def test_the_first_to_write_into_a_shared_block_gets_a_copy_and_the_last_writes_in_place():
    kv = KVManager(num_blocks=8, block_size=4)
    fill(kv, 1, range(10))
    kv.fork(1, 2, 10)
    shared = kv.block_table(1)[2]
    assert kv.reserve(2, 11)
    own = kv.block_table(2)[2]
    assert own != shared
    assert kv.take_moves() == [BlockMove(MoveKind.COPY, shared, own)]
    assert kv.reserve(1, 11)
    assert kv.block_table(1)[2] == shared
    assert kv.take_moves() == []
    assert kv.num_copy_on_write == 1
    kv.check_integrity()


def test_a_fork_at_a_block_border_never_copies():
    kv = KVManager(num_blocks=8, block_size=4)
    fill(kv, 1, range(8))
    kv.fork(1, 2, 8)
    assert kv.reserve(1, 9)
    assert kv.reserve(2, 9)
    assert kv.num_copy_on_write == 0
    assert kv.block_table(1)[2] != kv.block_table(2)[2]


def test_a_copy_that_does_not_fit_is_refused_and_nothing_changes():
    kv = KVManager(num_blocks=3, block_size=4)
    fill(kv, 1, range(10))
    kv.fork(1, 2, 10)
    before = list(kv.block_table(2))
    assert not kv.reserve(2, 11)
    assert list(kv.block_table(2)) == before
    assert kv.num_copy_on_write == 0
    kv.check_integrity()


def test_a_later_request_takes_over_the_blocks_of_the_prefix_it_shares():
    kv = KVManager(num_blocks=8, block_size=4, prefix_caching=True)
    fill(kv, 1, range(11))
    blocks = list(kv.block_table(1))
    kv.free(1)
    hashes = kv.prompt_hashes([*range(8), 90, 91])
    assert kv.num_cached_blocks(hashes) == (2, 2)
    assert kv.adopt_prefix(2, hashes, [*range(8), 90, 91]) == 8
    assert list(kv.block_table(2)) == blocks[:2]
    assert kv.num_cached_blocks(hashes) == (2, 0)
    kv.check_integrity()


def test_a_prompt_found_whole_still_has_a_token_to_compute():
    kv = KVManager(num_blocks=8, block_size=4, prefix_caching=True)
    fill(kv, 1, range(8))
    assert kv.adopt_prefix(2, kv.prompt_hashes(list(range(8))), list(range(8))) == 7


def test_a_block_that_agrees_in_part_is_copied_as_far_as_it_agrees():
    kv = KVManager(num_blocks=8, block_size=4, prefix_caching=True)
    fill(kv, 1, range(12))
    kv.free(1)
    prompt = [*range(6), 90, 91, 92]
    assert kv.adopt_prefix(2, kv.prompt_hashes(prompt), prompt) == 6
    (move,) = kv.take_moves()
    assert (move.kind, move.target) == (MoveKind.COPY, kv.block_table(2)[1])
    assert move.source != move.target
    assert kv.num_cached_blocks(kv.prompt_hashes(list(range(12))))[0] == 2, "the block it was copied from stays findable"
    kv.check_integrity()


def test_of_several_blocks_that_agree_in_part_the_longest_is_taken():
    kv = KVManager(num_blocks=8, block_size=4, prefix_caching=True)
    for seq_id, text in enumerate(([1, 2, 3, 9], [1, 2, 9, 9], [1, 9, 9, 9])):
        fill(kv, seq_id, text)
    assert kv.adopt_prefix(7, [], [1, 2, 3, 4, 5]) == 3
    assert kv.adopt_prefix(8, [], [2, 2, 3, 4, 5]) == 0
    assert kv.adopt_prefix(9, [], [1, 2]) == 1, "a token is left to compute"
    kv.check_integrity()


def test_no_part_is_copied_where_that_would_take_the_last_block_from_its_own_source():
    kv = KVManager(num_blocks=1, block_size=4, prefix_caching=True)
    fill(kv, 1, [1, 2, 3, 4])
    kv.free(1)
    assert kv.adopt_prefix(2, [], [1, 2, 9]) == 0
    assert kv.reserve(2, 3)
    kv.check_integrity()


def test_blocks_are_found_by_all_that_comes_before_them_and_by_the_salt():
    def hashes(salt, tokens):
        return KVManager(4, 2, prefix_caching=True, salt=salt).prompt_hashes(tokens)

    base = hashes(b"a", [1, 2, 3, 4, 5])
    assert len(base) == 2
    assert hashes(b"a", [1, 2, 3, 4, 9]) == base
    assert hashes(b"a", [1, 9, 3, 4, 5])[1] != base[1]
    assert not set(hashes(b"b", [1, 2, 3, 4, 5])) & set(base)


def test_cached_blocks_are_evicted_least_recently_used_first_and_leaf_first():
    kv = KVManager(num_blocks=6, block_size=2, prefix_caching=True)
    fill(kv, 1, [1, 1, 2, 2, 3, 3])
    fill(kv, 2, [7, 7, 8, 8, 9, 9])
    kv.free(1)
    kv.free(2)
    assert (kv.pool.num_free, kv.pool.num_cached, kv.num_used_blocks) == (0, 6, 0)
    found = []
    for i in range(6):
        texts = ([1, 1, 2, 2, 3, 3, 0], [7, 7, 8, 8, 9, 9, 0])
        found.append(tuple(kv.num_cached_blocks(kv.prompt_hashes(text))[0] for text in texts))
        assert kv.reserve(10 + i, 1)
    assert found == [(3, 3), (2, 3), (1, 3), (0, 3), (0, 2), (0, 1)]


def test_a_prefix_in_use_again_is_young_again():
    kv = KVManager(num_blocks=4, block_size=2, prefix_caching=True)
    fill(kv, 1, [1, 1, 2, 2])
    fill(kv, 2, [7, 7, 8, 8])
    kv.free(1)
    kv.free(2)
    kv.adopt_prefix(3, kv.prompt_hashes([1, 1, 2, 2, 0]), [1, 1, 2, 2, 0])
    kv.free(3)
    assert kv.reserve(4, 4)
    assert kv.num_cached_blocks(kv.prompt_hashes([1, 1, 2, 2, 0]))[0] == 2
    assert kv.num_cached_blocks(kv.prompt_hashes([7, 7, 8, 8, 0]))[0] == 0


def test_no_more_blocks_are_kept_for_their_content_than_the_pool_allows():
    evicted = []
    pool = BlockPool(5, evicted.append, max_cached=2)
    blocks = [pool.take() for _ in range(5)]
    for block_id in blocks:
        pool.release(block_id, keep=True)
    assert (pool.num_free, pool.num_cached) == (3, 2)
    assert evicted == blocks[:3]
    pool.check_integrity({})


def test_shared_blocks_are_swapped_out_and_in_once_and_shared_again():
    kv = KVManager(num_blocks=8, block_size=4, num_swap_blocks=8)
    fill(kv, 1, range(10))
    kv.fork(1, 2, 10)
    assert kv.reserve(2, 11)
    kv.record_filled([(2, 11, list(range(11)))])
    kv.take_moves()
    assert kv.can_swap_out([1, 2])
    kv.swap_out([1, 2])
    assert [m.kind for m in kv.take_moves()] == [MoveKind.SWAP_OUT] * 4
    assert (kv.num_used_blocks, kv.num_filled_slots, kv.num_swapped_out([1, 2])) == (0, 0, 4)
    kv.check_integrity()
    assert kv.swap_in([1, 2])
    assert [m.kind for m in kv.take_moves()] == [MoveKind.SWAP_IN] * 4
    assert kv.block_table(1)[:2] == kv.block_table(2)[:2]
    assert kv.block_table(1)[2] != kv.block_table(2)[2]
    assert (kv.num_filled_slots, kv.swap_pool.num_used) == (13, 0)
    kv.check_integrity()


def test_a_swap_that_does_not_fit_either_way_changes_nothing():
    kv = KVManager(num_blocks=3, block_size=4, num_swap_blocks=2)
    fill(kv, 1, range(12))
    assert not kv.can_swap_out([1])
    kv.free(1)
    fill(kv, 1, range(8))
    kv.swap_out([1])
    fill(kv, 2, range(8))
    assert not kv.swap_in([1])
    assert kv.num_swapped_out([1]) == 2
    kv.check_integrity()


def test_a_swapped_out_sequence_can_be_freed():
    kv = KVManager(num_blocks=4, block_size=4, num_swap_blocks=4)
    fill(kv, 1, range(9))
    kv.fork(1, 2, 9)
    kv.swap_out([1, 2])
    kv.free(1)
    assert kv.swap_pool.num_used == 3
    kv.free(2)
    assert kv.swap_pool.num_used == 0


def test_what_was_swapped_in_is_found_by_others_again():
    kv = KVManager(num_blocks=4, block_size=2, prefix_caching=True, num_swap_blocks=4)
    fill(kv, 1, [1, 2, 3, 4])
    kv.swap_out([1])
    fill(kv, 2, range(10, 18))  # evicts what was kept
    kv.free(2)
    assert kv.num_cached_blocks(kv.prompt_hashes([1, 2, 3, 4, 5])) == (0, 0)
    assert kv.swap_in([1])
    assert kv.num_cached_blocks(kv.prompt_hashes([1, 2, 3, 4, 5])) == (2, 0)
    kv.check_integrity()


def test_a_shared_block_is_free_only_when_no_table_holds_it():
    pool = BlockPool(2)
    block_id = pool.take()
    pool.share(block_id)
    assert not pool.release(block_id)
    assert pool.num_free == 1
    assert pool.release(block_id)
    assert pool.num_free == 2


@pytest.mark.parametrize(
    "misuse",
    [lambda pool: [pool.take() for _ in range(3)], lambda pool: pool.share(0), lambda pool: pool.release(0)],
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


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda pool, held: pool.free_ids.append(pool.free_ids[0]), "twice on the free list"),
        (lambda pool, held: pool.free_ids.append(held), r"blocks \[\d\] are both held and idle, or neither"),
        (lambda pool, held: pool.free_ids.pop(), r"blocks \[\d\] are both held and idle, or neither"),
        (lambda pool, held: pool.free_ids.append(9), r"blocks \[9\] are both held and idle, or neither"),
        (lambda pool, held: pool.cached_ids.update({pool.free_ids[0]: None}), "both free and cached"),
        (lambda pool, held: pool.share(held), r"ref counts are wrong: \{\d: 2\}"),
        (lambda pool, held: setattr(pool, "num_shared", 1), "shared blocks miscounted"),
    ],
)
def test_check_integrity_sees_any_damage_of_a_pool(damage, said):
    pool = BlockPool(4)
    held = pool.take()
    pool.check_integrity({held: 1})
    damage(pool, held)
    with pytest.raises(AssertionError, match=said):
        pool.check_integrity({held: 1})


@given(st.integers(1, 64), st.integers(0, 5000))
def test_a_sequence_never_has_a_whole_empty_block(block_size, num_slots):
    kv = KVManager(num_blocks=-(-5000 // block_size), block_size=block_size)
    assert kv.reserve(0, num_slots)
    assert 0 <= len(kv.block_table(0)) * block_size - num_slots < block_size
