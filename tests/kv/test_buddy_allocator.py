"""The buddy allocator: runs of powers of two that never overlap, all come back, and merge as soon as they can."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.kv.baselines.buddy import BuddyAllocator

SIZES = st.integers(1, 300)


def test_fifteen_blocks_are_eight_four_two_and_one():
    buddy = BuddyAllocator(15)
    assert [buddy.take(n) for n in (8, 4, 2, 1)] == [0, 8, 12, 14]
    assert buddy.take(1) is None


def test_a_run_is_rounded_up_to_a_power_of_two():
    buddy = BuddyAllocator(16)
    first = buddy.take(5)
    assert buddy.run_length(first) == 8
    assert buddy.num_free == 8


def test_the_smallest_run_that_fits_is_split():
    buddy = BuddyAllocator(8 + 2)
    assert buddy.take(1) == 8
    assert buddy.take(8) == 0


def test_free_blocks_that_are_scattered_hold_no_long_run():
    buddy = BuddyAllocator(8)
    firsts = [buddy.take(1) for _ in range(8)]
    for first in firsts[::2]:
        buddy.release(first)
    assert buddy.num_free == 4
    assert buddy.take(2) is None
    assert not buddy.fits(2, 1)
    assert buddy.fits(1, 4)


def test_the_papers_cache_holds_seven_sequences_of_2048():
    buddy = BuddyAllocator(15_728)
    assert buddy.fits(2048, 7)
    assert not buddy.fits(2048, 8)
    assert [buddy.take(2048) is not None for _ in range(8)] == [True] * 7 + [False]


def test_releasing_what_is_not_held_is_an_error():
    buddy = BuddyAllocator(4)
    with pytest.raises(ValueError, match="no run begins at block 2"):
        buddy.release(2)


@settings(deadline=None)
@given(st.integers(1, 700), st.lists(st.tuples(st.booleans(), SIZES, st.integers(0, 2**16)), max_size=100))
def test_any_use(num_blocks, operations):
    buddy = BuddyAllocator(num_blocks)
    held: dict[int, int] = {}
    for give_back, size, pick in operations:
        if give_back and held:
            first = sorted(held)[pick % len(held)]
            buddy.release(first)
            del held[first]
        else:
            fits = buddy.fits(size, 1)
            first = buddy.take(size)
            assert fits == (first is not None)
            if first is not None:
                held[first] = size
                assert size <= buddy.run_length(first) < 2 * size
        buddy.check_integrity()
        blocks = [b for first, size in held.items() for b in range(first, first + buddy.run_length(first))]
        assert len(blocks) == len(set(blocks)) == num_blocks - buddy.num_free
    for first in held:
        buddy.release(first)
    buddy.check_integrity()
    assert buddy.num_free == num_blocks
    largest = 1 << num_blocks.bit_length() - 1
    assert buddy.take(largest) == 0, "everything merged again"


@settings(deadline=None)
@given(num_blocks=st.integers(1, 300), size=SIZES, taken=st.lists(SIZES, max_size=20))
def test_fits_counts_the_runs_that_can_be_taken(num_blocks, size, taken):
    buddy = BuddyAllocator(num_blocks)
    for n in taken:
        buddy.take(n)
    count = 0
    while buddy.fits(size, count + 1):
        count += 1
    assert all(buddy.take(size) is not None for _ in range(count))
    assert buddy.take(size) is None
