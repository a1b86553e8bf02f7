"""masked_argmax is argmax of linear's sums after restrict_logits, to the bit: however much a row's mask allows, whatever rows
without a mask are in the batch. restrict_logits is its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, random, row_sizes, seeds, strided

from pagecli.core.token_masks import num_words
from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference

DTYPES = ("float32", "bfloat16", "int8")
KINDS = ("none", "nothing", "one", "few", "a stretch", "half", "all")


def make_masks(kinds, features, seed):
    """(words[C, W], mask_of[R]) with a mask of the kind for each row; "none": no mask."""
    rng = np.random.default_rng(seed)
    words, mask_of = np.zeros((len(kinds), num_words(features)), np.uint32), np.full(len(kinds), -1, np.int32)
    for row, kind in enumerate(kinds):
        bits = np.zeros(num_words(features) * 32, np.uint8)
        if kind == "none":
            continue
        start = int(rng.integers(features))
        chosen = {
            "nothing": [],
            "one": [start],
            "few": rng.integers(features, size=5),
            "a stretch": range(start, min(features, start + 40)),
            "half": np.flatnonzero(rng.random(features) < 0.5),
            "all": range(features),
        }[kind]
        bits[list(chosen)] = 1
        words[row] = np.packbits(bits, bitorder="little").view(np.uint32)
        mask_of[row] = row
    return words, mask_of


def all_three(x, weight, words, mask_of, bounds=None):
    """(fused, argmax of the masked sums of linear, rows and panels that the bounds were used for)"""
    fused, apart = torch.full((x.shape[0],), -7), torch.full((x.shape[0],), -8)
    used = kernels.masked_argmax(fused, x, weight, words, mask_of, bounds)
    logits = torch.empty(x.shape[0], weight.num_rows)
    kernels.linear(logits, x, weight)
    kernels.restrict_logits(logits, words, mask_of)
    kernels.argmax(apart, logits)
    return fused.tolist(), apart.tolist(), used


@examples
@given(
    seed=seeds,
    kinds=st.lists(st.sampled_from(KINDS), max_size=30),
    features=st.integers(1, 200) | st.sampled_from([3000]),
    cols=row_sizes,
    dtype=st.sampled_from(DTYPES),
    coarse=st.booleans(),
    bounded=st.booleans(),
)
def test_it_is_argmax_of_the_masked_sums(isa, seed, kinds, features, cols, dtype, coarse, bounded):
    x, weight = random(seed, len(kinds), cols), random(seed + 1, features, cols)
    if coarse:  # many equal sums
        x, weight = x.round().clamp(-1, 1), weight.round().clamp(-1, 1)
        weight[:, 3:] = 0
    packed = kernels.pack_weight(weight, dtype)
    bounds = kernels.pack_bounds(packed) if bounded else None
    fused, apart, _ = all_three(strided(x), packed, *make_masks(kinds, features, seed), bounds)
    assert fused == apart


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounded", [False, True])
def test_shapes_of_a_language_models_head(isa, dtype, bounded, restore_threads):
    kinds = [*KINDS] * 20
    x, weight = random(2, len(kinds), 96), kernels.pack_weight(random(3, 20_011, 96), dtype)
    masks = make_masks(kinds, 20_011, 4)
    bounds = kernels.pack_bounds(weight) if bounded else None
    results = []
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        results += all_three(x, weight, *masks, bounds)[:2]
    assert all(result == results[0] for result in results)
    assert [token < 0 for token in results[0]] == [kind == "nothing" for kind in kinds]


def test_rows_without_a_mask_give_what_they_give_alone(isa):
    kinds = ["none", "half", "few", "none", "one", "none"]
    x, weight = random(5, 6, 130), kernels.pack_weight(random(6, 9000, 130), "float32")
    alone = torch.empty(6, dtype=torch.int64)
    kernels.linear_argmax(alone, x, weight)
    fused, _, _ = all_three(x, weight, *make_masks(kinds, 9000, 7), kernels.pack_bounds(weight))
    assert [fused[row] for row in (0, 3, 5)] == [int(alone[row]) for row in (0, 3, 5)]


def test_a_row_with_one_allowed_output_takes_it_without_sums(isa):
    x, weight = random(8, 4, 64), kernels.pack_weight(random(9, 9000, 64), "float32")
    x[:] = float("nan")
    words, mask_of = make_masks(["one"] * 4, 9000, 10)
    only = [int(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))[0]) for row in words]
    fused, apart, used = all_three(x, weight, words, mask_of, kernels.pack_bounds(weight))
    assert fused == apart == only
    assert used == (0, 0)


def test_a_sum_that_is_not_a_number_counts_where_it_is_allowed(isa):
    values = random(11, 500, 61)
    values[[17, 340], 60] = float("nan")
    x, weight = random(12, 3, 61), kernels.pack_weight(values, "float32")
    allowed = np.zeros((3, num_words(500) * 32), np.uint8)
    allowed[0, [16, 17]] = allowed[1, [16, 18]] = allowed[2, :300] = 1
    allowed[2, 17] = 0
    words = np.packbits(allowed, axis=1, bitorder="little").view(np.uint32)
    fused, apart, _ = all_three(x, weight, words, np.arange(3, dtype=np.int32))
    assert fused == apart
    assert [token < 0 for token in fused] == [True, False, False]


@examples
@given(seed=seeds, kinds=st.lists(st.sampled_from(KINDS), max_size=9), features=st.integers(1, 300))
def test_the_reference_says_the_same(isa, seed, kinds, features):
    logits = strided(random(seed, len(kinds), features))
    expected, (words, mask_of) = logits.clone(), make_masks(kinds, features, seed)
    kernels.restrict_logits(logits, words, mask_of)
    reference.restrict_logits(expected, words, mask_of)
    assert torch.equal(logits, expected)
    x, weight = random(seed, len(kinds), 40), kernels.pack_weight(random(seed + 1, features, 40), "float32")
    by_reference = torch.empty(len(kinds), dtype=torch.int64)
    reference.masked_argmax(by_reference, x, weight, words, mask_of)
    assert all_three(x, weight, words, mask_of)[0] == by_reference.tolist()


def test_masks_of_another_vocabulary_are_refused():
    weight, x, out = kernels.pack_weight(torch.ones(70, 8), "float32"), torch.zeros(2, 8), torch.empty(2, dtype=torch.int64)
    words, mask_of = make_masks(["all", "none"], 70, 0)
    with pytest.raises(ValueError, match=r"words: expected \[masks, 3\]"):
        kernels.masked_argmax(out, x, weight, words[:, :2].copy(), mask_of)
    with pytest.raises(ValueError, match=r"mask_of\[1\]: expected a value < 2, got 2"):
        kernels.masked_argmax(out, x, weight, words, np.array([0, 2], np.int32))
    words[1, 2] = 1 << 6
    with pytest.raises(ValueError, match=r"words\[1\]: expected no bits beyond the 70 outputs"):
        kernels.masked_argmax(out, x, weight, words, mask_of)
    with pytest.raises(ValueError, match=r"mask_of: expected \[2\]"):
        kernels.restrict_logits(torch.zeros(2, 70), words, mask_of[:1])
