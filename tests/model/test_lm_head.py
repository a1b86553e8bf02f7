"""The LM head's argmax: by its screen as long as that saves work; the same tokens with it and after it was let go."""

import numpy as np
import pytest

from pagecli.devices.cpu import kernels, lm_head
from pagecli.devices.cpu.lm_head import LMHead

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
    assert head.screen is not None
    for num_rows in (0, 1, 5, 70):
        x = random(num_rows, num_rows, SIZE)
        assert head.argmax(x).tolist() == logits_argmax(head, x)
    assert head.screen is not None


def test_a_screen_that_leaves_much_is_let_go_and_the_tokens_stay_the_same(head):
    flat = random(1, 1, SIZE) + 1e-4 * random(2, NUM_TOKENS, SIZE)  # tokens so alike that a screen cannot tell them apart
    head = LMHead(kernels.pack_weight(flat, "float32"))
    assert head.screen is not None
    for step in range(9):
        x = random(3 + step, 10, SIZE)
        assert head.argmax(x).tolist() == logits_argmax(head, x)
        assert (head.screen is None) == (step >= 6)  # judged after 64 rows


def test_a_hard_row_among_many_costs_no_screen(head):
    for step in range(3):
        x = random(4 + step, 128, SIZE)
        x[step] = 0.0  # all logits are equal: the screen tells nothing, and all are computed
        assert head.argmax(x).tolist() == logits_argmax(head, x)
    assert head.screen is not None


def test_small_vocabularies_and_weights_that_are_not_finite_have_none():
    few = kernels.pack_weight(random(5, lm_head.MIN_TOKENS - 1, 8), "float32")
    assert LMHead(few).screen is None
    broken = random(6, NUM_TOKENS, SIZE)
    broken[77, 5] = np.nan
    head = LMHead(kernels.pack_weight(broken, "float32"))
    assert head.screen is None
    assert 77 not in head.argmax(random(7, 20, SIZE))


@pytest.mark.parametrize(("num_tokens", "size"), [(9000, 96), (8192, 64), (50272, 768)])
def test_its_size_is_known_from_the_shape(num_tokens, size):
    screen = LMHead(kernels.pack_weight(random(8, num_tokens, size), "bfloat16")).screen
    assert screen.nbytes == lm_head.screen_bytes(num_tokens, size, 2)
    assert lm_head.screen_bytes(lm_head.MIN_TOKENS - 1, size, 2) == 0


def test_int8_weights_have_none():
    weight = kernels.pack_weight(random(9, NUM_TOKENS, SIZE), "int8")
    head = LMHead(weight)
    assert head.screen is None
    assert lm_head.screen_bytes(NUM_TOKENS, SIZE, weight.nbytes / (NUM_TOKENS * SIZE)) == 0
    assert head.argmax(random(10, 30, SIZE)).tolist() == logits_argmax(head, random(10, 30, SIZE))
