"""top_logits against its definition, a sort: the same for a row alone and in any batch, whatever is equal, -inf or NaN."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, random, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference.logits import likeliest_logits


def top_logits(logits, rows, count):
    ids = np.full((len(rows), count), -1, dtype=np.int64)
    values, normalizers = np.full((len(rows), count), np.nan, np.float32), np.full((len(rows), 2), np.nan, np.float32)
    kernels.top_logits(ids, values, normalizers, logits, np.array(rows, dtype=np.int64))
    return ids, values, normalizers


@examples
@given(
    seed=seeds,
    num_rows=st.integers(1, 5),
    cols=st.integers(1, 400) | st.sampled_from([63, 64, 65, 1024]),
    count=st.sampled_from([0, 1, 2, 5, 20, 400]),
    coarse=st.booleans(),
    odd=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
def test_the_largest_and_the_normalizer_are_those_of_a_sort(isa, seed, num_rows, cols, count, coarse, odd):
    draw, count = np.random.default_rng(seed), min(count, cols)
    logits = strided(random(seed, num_rows, cols) * 5)
    if coarse:
        logits.round_()
    mask = torch.from_numpy(draw.random((num_rows, cols)) < odd)
    logits[mask] = float(draw.choice([-np.inf, np.nan]))
    rows = draw.integers(0, num_rows, 4).tolist()
    found = top_logits(logits, rows, count)
    expected = [torch.from_numpy(array.copy()) for array in found]
    likeliest_logits(*expected, logits, torch.tensor(rows))
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert np.array_equal(ours, theirs.numpy(), equal_nan=True)
    torch.testing.assert_close(torch.from_numpy(found[2]), expected[2], rtol=0, atol=2e-6, equal_nan=True)
    for at, row in enumerate(rows):
        alone = top_logits(logits[row : row + 1], [0], count)
        assert all(np.array_equal(one[0], of_all[at], equal_nan=True) for one, of_all in zip(alone, found, strict=True))


def test_a_row_that_has_infinity_has_no_normalizer(isa):
    logits = random(1, 2, 100)
    logits[0, 7] = float("inf")
    ids, values, normalizers = top_logits(logits, [0, 1], 1)
    assert ids[0, 0] == 7
    assert values[0, 0] == np.inf
    assert np.isnan(normalizers[0]).all()
    assert np.isfinite(normalizers[1]).all()


@pytest.mark.parametrize(("rows", "count"), [([2], 1), ([-1], 1), ([0], 6)])
def test_rows_and_columns_that_there_are_not_are_refused(rows, count):
    with pytest.raises(ValueError, match=r"rows|ids"):
        top_logits(torch.zeros(2, 5), rows, count)
