"""The LM head's argmax: pruned as long as that saves work; the same tokens with bounds and after they were disabled."""

import numpy as np
import pytest

from pagecli.devices.cpu import kernels, model
from pagecli.devices.cpu.model import LMHead
from pagecli.devices.step_masks import RowMasks

NUM_TOKENS, SIZE = 9000, 96


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def logits_argmax(head, x):
    logits = np.empty((x.shape[0], NUM_TOKENS), np.float32)
    head(logits, x)
    return logits.argmax(-1).tolist()


@pytest.fixture
def head():
    return LMHead(kernels.pack_weight(random(0, NUM_TOKENS, SIZE), "float32"))


def test_it_names_the_tokens_with_the_largest_logits(head):
    assert head.bounds is not None
    for num_rows in (0, 1, 5, 70):
        x = random(num_rows, num_rows, SIZE)
        assert head.argmax(x).tolist() == logits_argmax(head, x)
    assert head.bounds is not None


def test_bounds_that_prune_too_little_are_disabled_and_the_tokens_stay_the_same(head):
    flat = random(1, 1, SIZE) + 1e-4 * random(2, NUM_TOKENS, SIZE)  # tokens too alike for the bounds to prune
    head = LMHead(kernels.pack_weight(flat, "float32"))
    assert head.bounds is not None
    for step in range(9):
        x = random(3 + step, 10, SIZE)
        assert head.argmax(x).tolist() == logits_argmax(head, x)
        assert (head.bounds is None) == (step >= 6)  # judged after 64 rows


def test_one_hard_row_among_many_does_not_disable_the_bounds(head):
    for step in range(3):
        x = random(4 + step, 128, SIZE)
        x[step] = 0.0  # all logits are equal: nothing is pruned
        assert head.argmax(x).tolist() == logits_argmax(head, x)
    assert head.bounds is not None


def test_small_vocabularies_and_weights_that_are_not_finite_have_none():
    few = kernels.pack_weight(random(5, model.MIN_TOKENS - 1, 8), "float32")
    assert LMHead(few).bounds is None
    broken = random(6, NUM_TOKENS, SIZE)
    broken[77, 5] = np.nan
    head = LMHead(kernels.pack_weight(broken, "float32"))
    assert head.bounds is None
    assert 77 not in head.argmax(random(7, 20, SIZE))


@pytest.mark.parametrize(("num_tokens", "size"), [(9000, 96), (8192, 64), (8203, 768)])
def test_its_size_is_known_from_the_shape(num_tokens, size):
    bounds = LMHead(kernels.pack_weight(random(8, num_tokens, size), "bfloat16")).bounds
    assert bounds.nbytes == model.bounds_bytes(num_tokens, size, 2)
    assert model.bounds_bytes(model.MIN_TOKENS - 1, size, 2) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_with_a_bias_each_row_gets_the_largest_of_what_its_mask_allows(dtype):
    chance = np.random.default_rng(11)
    head = LMHead(kernels.pack_weight(random(12, NUM_TOKENS, SIZE), dtype), bias=20 * random(13, NUM_TOKENS))
    x, shares = random(14, 9, SIZE), (1.0, 0.5, 0.01, 0.0)
    allowed = np.array([chance.random(NUM_TOKENS) < share for share in shares])
    allowed[3, 4711] = True
    packed = np.packbits(allowed, axis=1, bitorder="little")
    words = np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4)))).view(np.uint32)
    mask_of = np.array([0, 1, 2, 3, -1, 3, 2, 1, -1], np.int32)
    logits = np.empty((9, NUM_TOKENS), np.float32)
    kernels.linear(logits, x, head.weight, head.bias)
    expected = [
        np.where(allowed[mask], row, -np.inf).argmax() if mask >= 0 else row.argmax()
        for mask, row in zip(mask_of, logits, strict=True)
    ]
    assert head.argmax(x, RowMasks(words, mask_of)).tolist() == expected
    assert head.argmax(x, RowMasks(words, mask_of))[3] == 4711


@pytest.mark.parametrize("dtype", ["int8", "int8-a16"])
def test_int8_weights_have_none(dtype):
    weight = kernels.pack_weight(random(9, NUM_TOKENS, SIZE), dtype)
    head = LMHead(weight)
    assert head.bounds is None
    assert model.bounds_bytes(NUM_TOKENS, SIZE, weight.nbytes / (NUM_TOKENS * SIZE)) == 0
    assert head.argmax(random(10, 30, SIZE)).tolist() == logits_argmax(head, random(10, 30, SIZE))
