"""apply_penalties against its definition, to the bit: one token of one sequence at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, random, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference.logits import penalize

SETTINGS = [(1.0, 0.0, 0.0), (1.3, 0.0, 0.0), (0.7, 0.5, 0.0), (1.0, 0.0, 0.1), (1.1, -0.5, 0.3)]


@examples
@given(
    seed=seeds,
    num_rows=st.integers(1, 9),
    cols=st.integers(1, 300),
    width=st.integers(0, 200),
    settings=st.lists(st.sampled_from(SETTINGS), min_size=9, max_size=9),
)
def test_known_tokens_are_lowered_and_no_other(seed, num_rows, cols, width, settings):
    draw = np.random.default_rng(seed)
    logits = strided(random(seed, num_rows, cols) * 4)
    rows = draw.permutation(num_rows)[: draw.integers(1, num_rows + 1)]
    width = min(width, cols)
    ids = np.stack([draw.permutation(cols)[:width] for _ in rows]).astype(np.int32)
    ids[draw.random(ids.shape) < 0.3] = -1
    counts = draw.integers(0, 4, ids.shape).astype(np.int32)
    expected = logits.clone()
    penalties = np.array(settings[: len(rows)], dtype=np.float32)
    penalize(expected, *map(torch.from_numpy, (rows, penalties, ids, counts)))
    wide = np.pad(np.stack([ids, counts]), ((0, 0), (0, 0), (0, 7)), constant_values=10**6)  # views, as of a larger array
    kernels.apply_penalties(logits, rows, penalties, *wide[:, :, :width])
    assert (logits.view(torch.int32) == expected.view(torch.int32)).all()
    assert gaps(logits).isnan().all()


def test_more_rows_than_one_thread_takes_are_all_lowered():
    logits, num_rows, width = torch.ones(700, 90), 700, 90
    ids = np.tile(np.arange(width, dtype=np.int32), (num_rows, 1))
    penalties = np.tile(np.float32([2.0, 0.0, 0.25]), (num_rows, 1))
    kernels.apply_penalties(logits, np.arange(num_rows), penalties, ids, np.ones_like(ids))
    assert (logits == 0.25).all()


@pytest.mark.parametrize(("rows", "ids"), [([3], [[0]]), ([-1], [[0]]), ([0], [[5]]), ([0, 1], [[0]])])
def test_rows_and_tokens_that_there_are_not_are_refused(rows, ids):
    logits, ids = torch.zeros(3, 5), np.array(ids, dtype=np.int32)
    penalties = np.ones((len(rows), 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"rows|ids"):
        kernels.apply_penalties(logits, np.array(rows), penalties, ids, np.zeros_like(ids))
    assert (logits == 0).all()
