"""Quantized upper bounds of an LM head: they hold, and the pruned argmax is that of linear, whatever the values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, random, row_sizes, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights.quantized_bounds import num_bytes
from pagecli.devices.reference import formats

DTYPES = ("float32", "bfloat16", "int8", "int8-a16")
PRUNED = ("float32", "bfloat16", "int8-a16")  # the rounding of 8-bit activations is too coarse to prune much


def argmaxes(x, weight, bounds):
    """(by the bounds, of linear's sums, share of the panels that were computed from the weights)"""
    pruned, whole = torch.full((x.shape[0],), -7), torch.full((x.shape[0],), -8)
    logits = torch.empty(x.shape[0], weight.num_rows)
    kernels.linear(logits, x, weight)
    kernels.argmax(whole, logits)
    computed = kernels.linear_argmax(pruned, x, weight, bounds)
    return pruned.tolist(), whole.tolist(), computed / max(1, x.shape[0] * -(-weight.num_rows // 16))


def packed(weight, dtype):
    weight = kernels.pack_weight(weight, dtype)
    bounds = kernels.pack_bounds(weight)
    assert bounds is not None
    return weight, bounds


@examples
@given(
    seed=seeds,
    features=st.integers(1, 100),
    cols=row_sizes,
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([1e-20, 1, 1e9]),
)
def test_they_are_packed_as_the_definition_says(isa, seed, features, cols, dtype, size):
    weight = kernels.pack_weight(random(seed, features, cols) * size, dtype)
    found, expected = kernels.pack_bounds(weight).data, formats.pack_bounds(weight).data.numpy()
    rows = -(-features // 16) * 16
    assert len(found) == num_bytes(features, cols) // 4
    assert np.array_equal(found[: -2 * rows], expected[: -2 * rows])  # bytes and scales
    (norm, error), (exact_norm, exact_error) = (
        words[-2 * rows :].view(np.float32).reshape(2, rows) for words in (found, expected)
    )
    rounding = 5e-7 * exact_norm  # of single weights, which the argmax allows for
    assert (norm >= exact_norm).all()
    assert (norm <= exact_norm * (1 + 4e-6)).all()
    assert (error >= exact_error - rounding).all()
    assert (error <= exact_error * (1 + 4e-6) + rounding).all()


@pytest.mark.slow
@examples
@given(
    seed=seeds,
    rows=st.integers(0, 20) | st.sampled_from([127, 130, 257]),
    features=st.integers(1, 200) | st.sampled_from([3000]),
    cols=row_sizes,
    dtype=st.sampled_from(DTYPES),
    coarse=st.booleans(),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
)
def test_the_pruned_argmax_is_that_of_linear(isa, seed, rows, features, cols, dtype, coarse, spread):
    x, weight = random(seed, rows, cols), random(seed + 1, features, cols)
    if coarse:  # many equal sums
        x, weight = x.round().clamp(-1, 1), weight.round().clamp(-1, 1)
        weight[:, 3:] = 0
    weight *= (spread * random(seed + 2, features, 1)).exp()  # lengths of very different sizes
    pruned, whole, _ = argmaxes(strided(x), *packed(weight, dtype))
    assert pruned == whole


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRUNED)
@pytest.mark.parametrize(("rows", "features", "cols"), [(1, 20_011, 96), (70, 9003, 300), (5, 8210, 1400)])
def test_a_language_models_head_needs_few_of_its_weights(isa, dtype, rows, features, cols, restore_threads):
    x, (weight, bounds) = random(2, rows, cols), packed(random(3, features, cols), dtype)
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        pruned, whole, share = argmaxes(x, weight, bounds)
        assert pruned == whole
        assert share < 0.06


@pytest.mark.parametrize("dtype", PRUNED)
@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-5, 1e-3, 1e-2])
def test_sums_that_differ_by_less_than_the_bounds_resolve_are_all_computed(isa, dtype, apart):
    x, weight = random(5, 12, 160), random(6, 6000, 160)
    near = torch.arange(11, 6000, 300)  # 20 outputs of 20 panels, almost the same and larger than all others
    weight[near] = 3 * x.mean(0) + apart * random(7, 20, 160)
    x = x.mean(0) + 0.01 * x
    pruned, whole, share = argmaxes(x, *packed(weight, dtype))
    assert pruned == whole
    assert set(whole) <= set(near.tolist())
    assert share < 21 / 375


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_cannot_be_bounded_are_computed_whole(isa, dtype):
    x, (weight, bounds) = random(8, 9, 70), packed(random(9, 5000, 70), dtype)
    x[1] = 0.0  # every sum is zero
    x[3, 5] = float("nan")
    x[4, 6] = float("inf")
    x[7] = 1e25
    pruned, whole, share = argmaxes(x, weight, bounds)
    assert pruned == whole
    assert 4 / 9 <= share < 5 / 9
    assert pruned[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_more_columns_than_are_summed_at_a_time(isa, dtype):
    x, weight = random(13, 5, 4200), random(14, 3000, 4200)
    weight[1234] *= 1.5
    pruned, whole, _ = argmaxes(x, *packed(weight, dtype))
    assert pruned == whole


def signs(seed, *shape):
    return random(seed, *shape).sign()


def test_a_weights_rounding_may_all_point_one_way(isa):
    """Every weight of the largest output is rounded down where x is positive, those of others up: the bound is all used."""
    cols, x = 256, signs(15, 1, 256)
    steps = torch.randint(10, 20, (cols,), generator=torch.Generator().manual_seed(16)).float()
    weight = 0.001 * random(17, 5000, cols)
    weight[3000] = x[0] * (steps + 0.45) / 63
    weight[[40, 900, 4100]] = x[0] * ((steps + (torch.arange(cols) % 5 > 0)) - 0.45) / 63  # 0.8 steps more on the average
    weight[:, 0] = 0.0
    weight[[40, 900, 3000, 4100], 0] = x[0, 0]  # 63 steps
    pruned, whole, _ = argmaxes(x, *packed(weight, "float32"))
    assert pruned == whole == [3000]


def test_the_rounding_of_x_may_all_point_one_way(isa):
    """As above: every x is rounded down where the largest output's weight is positive."""
    cols, up = 256, signs(18, 256)
    x = (-up * (torch.arange(cols) % 5 > 2) + 0.45 * up) / 127  # 0.4 steps against `up`, 0.45 steps with it
    weight = torch.zeros(5000, cols)
    weight[3000], weight[[40, 900, 4100]] = up, -up
    x[::64], weight[:, ::64] = 1.0, -1.0  # 127 steps, against all outputs but these
    weight[[40, 900, 3000, 4100], ::64] = 0.0
    pruned, whole, _ = argmaxes(x[None], *packed(weight, "float32"))
    assert pruned == whole == [3000]


def test_equal_weights_leave_all_outputs_and_the_first_wins(isa):
    weight, bounds = packed(torch.ones(3000, 64), "float32")
    assert argmaxes(torch.ones(3, 64), weight, bounds) == ([0, 0, 0], [0, 0, 0], 1.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_weights_that_cannot_be_bounded_have_no_bounds(isa, dtype, value):
    weight = random(10, 40, 50)
    weight[33, 49] = value
    assert kernels.pack_bounds(kernels.pack_weight(weight, dtype)) is None


def test_numbers_too_small_for_a_scale_are_no_problem(isa):
    x, (weight, bounds) = random(11, 4, 64) * 1e-15, packed(random(12, 3000, 64) * 1e-33, "float32")
    pruned, whole, _ = argmaxes(x, weight, bounds)
    assert pruned == whole


def test_bounds_of_another_weight_are_refused():
    weight, (_, bounds) = kernels.pack_weight(torch.ones(20, 8), "float32"), packed(torch.ones(40, 8), "float32")
    with pytest.raises(ValueError, match="bounds: expected"):
        kernels.linear_argmax(torch.empty(3, dtype=torch.int64), torch.zeros(3, 8), weight, bounds)
