"""linear against its definition in float64, on any shape; a row gives the same bits in any batch and on any number of threads.

Tolerance: out[m, n] is one running float32 sum over k, so its rounding error is a random walk of K steps, each at most half an
ulp of the sum: within EPSILON * (8 + 2 * sqrt(K)) of the sum of the terms' sizes, the 8 for bias, activation and residual.
With int8 and int8-a16 weights x is rotated and quantized as the definition says, the factors are what integers and scales stand
for, and the sum is over groups, whose own sums are exact.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, random, row_sizes, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import formats
from pagecli.devices.reference import operations as reference

EPSILON = 2.0**-24
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu", "relu2")
DTYPES = ("float32", "bfloat16", "int8", "int8-a16")

dtypes = st.sampled_from(DTYPES)
num_rows = st.integers(0, 40) | st.sampled_from([60, 97, 130])


def factors_of(isa, x, weight):
    """x[M, K] and weight[N, K] as they are multiplied, K padded to whole groups where there are any, float64."""
    if weight.dtype == "int8":
        both = formats.quantize_rotated(x), formats.groups_of(weight)
        return tuple((q.double() * scale.double().unsqueeze(-1)).flatten(1) for q, scale in both)
    if weight.dtype == "int8-a16":
        x = formats.dequantize(*formats.quantize(x, 16383), x.shape[1])
    if isa in ("avx512bf16", "amx") and weight.dtype == "bfloat16":
        x = x.bfloat16()
    return x.double(), formats.unpack_weight(weight).double()


def expected_and_tolerance(isa, x, weight, bias, activation, residual):
    x, values = factors_of(isa, x, weight)
    factors = x, values[: weight.num_rows].T
    terms = [t.double() for t in (bias, residual) if t is not None]
    sums = factors[0] @ factors[1] + (0 if bias is None else bias.double())
    expected = reference._ACTIVATIONS[activation](sums) + (0 if residual is None else residual.double())
    sizes = factors[0].abs() @ factors[1].abs() + sum(t.abs() for t in terms) + 1e-30
    tolerance = EPSILON * (8 + 2 * math.sqrt(weight.num_cols)) * sizes
    if activation == "relu2":  # an error of the sum grows by the slope of its square
        tolerance = tolerance * (1 + 2 * sums.abs() + tolerance)
    return expected, tolerance


def check(isa, x, weight, bias=None, activation="none", accumulate=False, seed=0):
    shape = (x.shape[0], weight.num_rows)
    residual = random(seed + 7, *shape) if accumulate else None
    out = strided(torch.full(shape, float("nan")) if residual is None else residual)
    kernels.linear(out, x, weight, bias, activation, accumulate)
    expected, tolerance = expected_and_tolerance(isa, x, weight, bias, activation, residual)
    assert ((out.double() - expected).abs() <= tolerance).all(), (
        f"off by {((out - expected).abs() / tolerance).max():.2f} tolerances"
    )
    assert gaps(out).isnan().all()


@examples
@given(
    seed=seeds,
    rows=num_rows,
    features=row_sizes,
    cols=row_sizes,
    dtype=dtypes,
    activation=st.sampled_from(ACTIVATIONS),
    has_bias=st.booleans(),
    accumulate=st.booleans(),
)
def test_linear(isa, seed, rows, features, cols, dtype, activation, has_bias, accumulate):
    x = strided(random(seed, rows, cols))
    weight = kernels.pack_weight(random(seed + 1, features, cols), dtype)
    bias = random(seed + 2, features) if has_bias else None
    check(isa, x, weight, bias, activation, accumulate, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", range(1, 14))
def test_every_height_of_a_tile(isa, dtype, rows):
    weight = kernels.pack_weight(random(1, 16 * 9 + 5, 200), dtype)
    check(isa, random(0, rows, 200), weight, random(2, weight.num_rows), "relu", accumulate=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "cols"), [(1, 4097), (7, 8193), (13, 4096), (2, 12288), (14, 9000)])
def test_sums_over_several_blocks_of_k(isa, dtype, rows, cols):
    check(isa, random(0, rows, cols), kernels.pack_weight(random(1, 83, cols), dtype), random(2, 83), "gelu", accumulate=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_one_item_of_work_takes(isa, dtype):
    check(isa, random(0, 1100, 33), kernels.pack_weight(random(1, 150, 33), dtype), random(2, 150))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others_or_on_threads(isa, dtype, restore_threads):
    x, weight, bias = random(0, 200, 777), kernels.pack_weight(random(1, 345, 777), dtype), random(2, 345)

    def run(first, last):
        out = random(3, 200, 345)[first:last]
        kernels.linear(out, x[first:last], weight, bias, "gelu", accumulate=True)
        return out

    together = run(0, 200)
    for threads in (1, 2):
        kernels.set_num_threads(threads)
        assert torch.equal(run(0, 200), together)
        for row in (0, 5, 6, 131, 199):
            assert torch.equal(run(row, row + 1), together[row : row + 1])
        for rows in (2, 3, 4, 5, 7, 12, 13, 61):
            assert torch.equal(run(50, 50 + rows), together[50 : 50 + rows])


@pytest.mark.parametrize(("rows", "features", "cols"), [(1, 40, 64), (7, 83, 300), (16, 50, 768), (70, 33, 4200), (5, 20, 1)])
def test_int8_has_the_same_bits_on_every_instruction_set(rows, features, cols, restore_isa):
    x, weight, bias = random(0, rows, cols), random(1, features, cols), random(2, features)
    outs = []
    for isa in kernels.supported_isas():
        assert kernels._native.select_isa(isa)
        outs.append(torch.empty(rows, features))
        kernels.linear(outs[-1], x, kernels.pack_weight(weight, "int8"), bias, "relu")
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_int8_spreads_an_outlier_over_its_group(isa):
    """One number 1,000 times its neighbours' size leaves these to the rotation: 15 bits would resolve them, 8 unrotated not."""
    x, weight = random(0, 4, 64), random(1, 30, 64)
    x[:, 5], weight[:, 5] = 1000.0, 0.0
    out = torch.empty(4, 30)
    kernels.linear(out, x, kernels.pack_weight(weight, "int8"))
    exact, unrotated = x @ weight.T, formats.dequantize(*formats.quantize(x), 64) @ weight.T
    assert (out - exact).abs().mean() < (unrotated - exact).abs().mean()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_long_row_does_not_depend_on_the_others(isa, dtype):
    x, weight = random(0, 15, 9001), kernels.pack_weight(random(1, 40, 9001), dtype)
    together, alone = torch.empty(15, 40), torch.empty(1, 40)
    kernels.linear(together, x, weight)
    for row in range(15):
        kernels.linear(alone, x[row : row + 1], weight)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_a_number_stays_in_its_row_and_column(isa, dtype):
    values = random(1, 50, 61)
    values[17, 60] = float("nan")
    x = random(0, 20, 61)
    x[4, 0] = float("inf")
    x[9] = float("nan")
    out = torch.zeros(20, 50)
    kernels.linear(out, x, kernels.pack_weight(values, dtype))
    finite = out.isfinite()
    assert not finite[4].any()
    assert not finite[9].any()
    assert not finite[:, 17].any()
    rows, columns = [r for r in range(20) if r not in (4, 9)], [c for c in range(50) if c != 17]
    assert finite[rows][:, columns].all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_columns_only_bias_and_activation_are_left(isa, dtype):
    out = torch.full((3, 20), float("nan"))
    kernels.linear(out, torch.empty(3, 0), kernels.pack_weight(torch.empty(20, 0), dtype), torch.full((20,), -1.5), "relu")
    assert torch.equal(out, torch.zeros(3, 20))
