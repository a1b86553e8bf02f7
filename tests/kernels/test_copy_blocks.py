"""copy_blocks: whole blocks, in order, between two caches or within one; what it cannot copy is refused by name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, random, seeds

from pagecli.devices.cpu.kernels import copy_blocks
from pagecli.devices.reference import operations as reference

DTYPES = [torch.float32, torch.bfloat16, torch.int8]


def caches(seed, num_source, num_target, dtype):
    """Two caches[num_blocks, 2 heads, 4 slots, 8]."""
    both = (30 * random(seed, num_source + num_target, 2, 4, 8)).to(dtype)
    return both[:num_source].clone(), both[num_source:].clone()


@examples
@given(seed=seeds, num_source=st.integers(1, 6), num_target=st.integers(1, 6), dtype=st.sampled_from(DTYPES), data=st.data())
def test_between_two_caches(seed, num_source, num_target, dtype, data):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, num_source - 1), st.integers(0, num_target - 1)), max_size=8))
    source, target = caches(seed, num_source, num_target, dtype)
    expected, before = target.clone(), source.clone()
    ids = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    reference.copy_blocks(expected, source, ids)
    copy_blocks(target, source, ids)
    assert torch.equal(target, expected)
    assert torch.equal(source, before)


@examples
@given(seed=seeds, dtype=st.sampled_from(DTYPES), pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=10))
def test_within_a_cache_later_pairs_see_what_earlier_ones_wrote(seed, dtype, pairs):
    cache, _ = caches(seed, 5, 0, dtype)
    expected = cache.clone()
    ids = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    reference.copy_blocks(expected, expected, ids)
    copy_blocks(cache, cache, ids)
    assert torch.equal(cache, expected)


def test_a_chain_of_pairs_passes_one_block_on():
    cache, _ = caches(0, 3, 0, torch.float32)
    first = cache[0].clone()
    copy_blocks(cache, cache, torch.tensor([[0, 1], [1, 2]]))
    assert torch.equal(cache[2], first)


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([[3, 0]], r"pairs\[0, 0\]: expected a block below 3, got 3"),
        ([[0, 0], [0, 2]], r"pairs\[1, 1\]: expected a block below 2, got 2"),
        ([[-1, 0]], r"pairs\[0, 0\]: expected a block below 3, got -1"),
        ([[0, 1, 2]], "pairs"),
    ],
)
def test_pairs_that_lead_outside_are_refused_before_anything_is_copied(pairs, says):
    source, target = caches(0, 3, 2, torch.float32)
    before = target.clone()
    with pytest.raises(ValueError, match=says):
        copy_blocks(target, source, torch.tensor(pairs))
    assert torch.equal(target, before)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.to(torch.bfloat16), "target"),
        (lambda t: t[:, :1].contiguous(), "target"),
        (lambda t: t[..., ::2], "target"),
    ],
    ids=["type", "shape", "strides"],
)
def test_caches_that_do_not_match_are_refused(change, says):
    source, target = caches(0, 3, 2, torch.float32)
    with pytest.raises((ValueError, TypeError), match=says):
        copy_blocks(change(target), source, torch.tensor([[0, 0]]))
