"""The path of linear that multiplies bfloat16 pairs (AVX-512 BF16), run on any machine by emulating that one instruction, and
its path by multiply-adds of floats."""

import functools

import emulated_kernels
import pytest
import torch
from shapes import random

from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights import quantized_bounds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return emulated_kernels.build(tmp_path_factory, "PAGECLI_EMULATE_PAIR_DOT")


@pytest.fixture(params=[False, True], ids=["pairs", "widened"])
def library(built, request):
    built.emulated_widen(request.param)
    return built


@pytest.fixture
def linear_by_pairs(library):
    """linear_by_pairs(x, weight) -> x @ weight.T by the emulated kernels."""
    return functools.partial(emulated_kernels.linear, library)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 13, 200])
@pytest.mark.parametrize("cols", [1, 2, 33, 512, 4099])
def test_both_factors_are_rounded_to_bfloat16_and_summed_in_float32(linear_by_pairs, rows, cols):
    x, weight = random(0, rows, cols), random(1, 83, cols)
    factors = x.bfloat16().double(), weight.bfloat16().double().T
    tolerance = 2.0**-24 * (8 + 2 * cols**0.5) * (factors[0].abs() @ factors[1].abs())
    assert ((linear_by_pairs(x, weight) - factors[0] @ factors[1]).abs() <= tolerance).all()


def test_pairs_are_summed_odd_k_first(linear_by_pairs):
    """vdpbf16ps adds the pair's odd product before its even one: 1 + 2^24 loses the 1, -2^24 then leaves 0."""
    assert linear_by_pairs(torch.tensor([[1.0, 2.0**24, 0.0, -(2.0**24)]]), torch.ones(1, 4)).item() == 0.0
    assert linear_by_pairs(torch.tensor([[2.0**24, 1.0, -(2.0**24), 0.0]]), torch.ones(1, 4)).item() == 0.0
    assert linear_by_pairs(torch.tensor([[-(2.0**24), 2.0**24, 0.0, 1.0]]), torch.ones(1, 4)).item() == 1.0


def test_a_row_does_not_depend_on_the_others(linear_by_pairs):
    """More rows than are rounded at a time, so that rows 0, 349 and 699 fall into different passes."""
    x, weight = random(0, 700, 8200), random(1, 20, 8200)
    together = linear_by_pairs(x, weight)
    for row in (0, 349, 699):
        assert torch.equal(linear_by_pairs(x[row : row + 1], weight)[0], together[row])


def test_bounds_allow_for_the_rounding_of_x(library, linear_by_pairs):
    """x has whole steps of the bounds, but bfloat16 rounds all of it the way that makes one output the largest."""
    rows, cols = 8000, 256
    up, down = [*range(50, 62), *range(107, 115)], [*range(66, 90)]  # steps of 1/127 that bfloat16 rounds so; sums much alike
    x = torch.tensor([step for k in range(cols // 2) for step in (up[k % len(up)], down[k % len(down)])]) / 127
    x[::64] = 1.0
    rounding = x.bfloat16().float() - x
    way, gain = rounding.sign(), rounding.abs().sum()
    weight = torch.full((rows, cols), -0.05)
    weight[5000], weight[[30, 700, 6000]] = way, -way
    excess = (x * way).sum() + 0.8 * gain  # the bounds' sums are to be 0.8 of the gain apart, on the wrong side
    weight[5000, ::64] = -(excess / 4 * 63).round() / 63
    weight[[30, 700, 6000], ::64] = (excess / 4 * 63).round() / 63
    sums = linear_by_pairs(x[None], weight)[0]
    assert sums.argmax() == 5000
    assert weight.abs().max() == 1.0
    packed, bounds = (
        kernels.pack_weight(weight, "bfloat16"),
        torch.empty(quantized_bounds.num_bytes(rows, cols) // 4, dtype=torch.int32),
    )
    out = torch.full((1,), -7)
    args = out.data_ptr(), x.data_ptr(), packed.data.ctypes.data, bounds.data_ptr(), 1, rows, cols
    assert 1 < library.emulated_pruned(*args) < 30
    assert out.item() == 5000
