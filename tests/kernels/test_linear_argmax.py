"""linear_argmax is argmax of what linear gives, to the bit: any weight type, shape, number of threads; equal values; NaN."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, random, row_sizes, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference

DTYPES = ("float32", "bfloat16", "int8", "int8-a16")


def both(x, weight):
    """(linear_argmax, argmax of linear) of the rows of x."""
    fused, apart = torch.full((x.shape[0],), -7), torch.full((x.shape[0],), -8)
    logits = torch.empty(x.shape[0], weight.num_rows)
    kernels.linear_argmax(fused, x, weight)
    kernels.linear(logits, x, weight)
    kernels.argmax(apart, logits)
    return fused.tolist(), apart.tolist()


@examples
@given(
    seed=seeds,
    rows=st.integers(0, 30) | st.sampled_from([97, 130]),
    features=st.integers(1, 200),
    cols=row_sizes,
    dtype=st.sampled_from(DTYPES),
    coarse=st.booleans(),
)
def test_it_is_argmax_of_linear(isa, seed, rows, features, cols, dtype, coarse):
    x, weight = random(seed, rows, cols), random(seed + 1, features, cols)
    if coarse:  # many equal sums
        x, weight = x.round().clamp(-1, 1), weight.round().clamp(-1, 1)
        weight[:, 3:] = 0
    fused, apart = both(strided(x), kernels.pack_weight(weight, dtype))
    assert fused == apart


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "features", "cols"), [(1, 20_011, 96), (7, 5003, 300), (600, 2500, 64), (5, 83, 9000)])
def test_shapes_of_a_language_models_head(isa, dtype, rows, features, cols, restore_threads):
    x, weight = random(2, rows, cols), kernels.pack_weight(random(3, features, cols), dtype)
    results = []
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        results += both(x, weight)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equal_sums_the_first_wins_whoever_computed_it(isa, dtype, restore_threads):
    kernels.set_num_threads(2)
    weight = torch.zeros(3000, 64)
    weight[[700, 701, 1900, 2999]] = 1.0
    signs = torch.tensor([1.0, -1.0, 0.0]).repeat(20)
    packed = kernels.pack_weight(weight, dtype)
    for _ in range(20):
        out = torch.empty(60, dtype=torch.int64)
        kernels.linear_argmax(out, signs[:, None] * torch.ones(60, 64), packed)
        assert out.tolist() == [700, 0, 0] * 20  # 0: the first zero; minus zeros are equal to zeros


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_a_sum_that_is_not_finite_has_no_largest(isa, dtype, value):
    weight, x = kernels.pack_weight(random(1, 500, 61), dtype), random(0, 12, 61)
    x[[0, 9], [3, 60]] = value
    fused, apart = both(x, weight)
    assert fused == apart
    assert [row for row, token in enumerate(fused) if token < 0] == [0, 9]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [0, 17, 499])
def test_one_weight_that_is_not_a_number_leaves_no_row_a_largest(isa, dtype, row):
    values = random(1, 500, 61)
    values[row, 60] = float("nan")
    fused, apart = both(random(0, 12, 61), kernels.pack_weight(values, dtype))
    assert fused == apart == [-1] * 12


def test_the_reference_says_the_same(isa):
    x, weight = random(4, 9, 70), kernels.pack_weight(random(5, 333, 70), "float32")
    expected = torch.empty(9, dtype=torch.int64)
    reference.linear_argmax(expected, x, weight)
    assert both(x, weight)[0] == expected.tolist()


def test_wrong_arguments_are_refused():
    weight = kernels.pack_weight(torch.ones(20, 8), "float32")
    with pytest.raises(ValueError, match=r"out: expected \[3\]"):
        kernels.linear_argmax(torch.empty(2, dtype=torch.int64), torch.zeros(3, 8), weight)
    with pytest.raises(ValueError, match=r"x: expected \[tokens, 8\]"):
        kernels.linear_argmax(torch.empty(3, dtype=torch.int64), torch.zeros(3, 9), weight)
    empty = kernels.pack_weight(torch.ones(0, 8), "float32")
    with pytest.raises(ValueError, match="weight: expected 1 row"):
        kernels.linear_argmax(torch.empty(3, dtype=torch.int64), torch.zeros(3, 8), empty)
