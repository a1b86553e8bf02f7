"""The paths of linear for a matrix unit (AMX), run on any machine by emulating its instructions; where a machine has them, the
emulation must give what they give."""

import functools
import math

import emulated_kernels
import pytest
import torch
from shapes import random

from pagecli.devices.cpu import kernels

pytestmark = pytest.mark.slow

ROWS = [1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100]
COLS = [1, 2, 31, 32, 33, 64, 130, 4099]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return emulated_kernels.build(tmp_path_factory, "PAGECLI_EMULATE_TILES", "PAGECLI_EMULATE_PAIR_DOT")


@pytest.fixture(scope="module")
def linear(library):
    """linear(x, weight, dtype) -> x @ weight.T by the emulated unit."""
    return functools.partial(emulated_kernels.linear, library)


@pytest.fixture
def by_native():
    """by_native(isa, x, weight, dtype) -> x @ weight.T by the installed kernels of that instruction set."""
    before = kernels.isa_name()

    def run(isa, x, weight, dtype):
        assert kernels._native.select_isa(isa)
        out = torch.empty(x.shape[0], weight.shape[0])
        kernels.linear(out, x, kernels.pack_weight(weight, dtype))
        return out

    yield run
    kernels._native.select_isa(before)


@pytest.mark.parametrize("cols", COLS)
@pytest.mark.parametrize("rows", ROWS)
def test_both_factors_are_rounded_to_bfloat16_and_summed_in_float32(linear, rows, cols):
    x, weight = random(0, rows, cols), random(1, 83, cols)
    factors = x.bfloat16().double(), weight.bfloat16().double().T
    tolerance = 2.0**-24 * (8 + 2 * math.sqrt(cols)) * (factors[0].abs() @ factors[1].abs())
    assert ((linear(x, weight) - factors[0] @ factors[1]).abs() <= tolerance).all()


def test_the_even_and_the_odd_k_of_a_chunk_are_summed_apart(linear):
    """2^24 + 1 loses the 1 where both are even; of an odd and an even one, each waits for the chunk's end with its own."""
    ones = torch.ones(1, 64)
    chunk = torch.zeros(1, 64)
    chunk[0, [0, 2, 4]] = torch.tensor([2.0**24, 1.0, -(2.0**24)])
    assert linear(chunk, ones).item() == 0.0
    chunk[0, [0, 3, 4]], chunk[0, 2] = torch.tensor([2.0**24, 1.0, -(2.0**24)]), 0.0
    assert linear(chunk, ones).item() == 1.0


@pytest.mark.parametrize("dtype", ["int8", "int8-a16"])
@pytest.mark.parametrize("cols", COLS)
@pytest.mark.parametrize("rows", ROWS)
def test_int8_weights_give_the_bits_of_products_without_the_unit(linear, by_native, rows, cols, dtype):
    """Products of bytes are exact, and two of them are the sum of one of 16 bits; what follows is the same."""
    x, weight = random(0, rows, cols), random(1, 83, cols)
    assert torch.equal(linear(x, weight, dtype), by_native("generic", x, weight, dtype))


@pytest.mark.parametrize("dtype", emulated_kernels.TYPES)
def test_a_row_does_not_depend_on_the_others(linear, dtype):
    """More rows than are laid out at a time, so that rows 0, 349 and 699 fall into different passes."""
    x, weight = random(0, 700, 8200), random(1, 20, 8200)
    together = linear(x, weight, dtype)
    for row in (0, 349, 699):
        assert torch.equal(linear(x[row : row + 1], weight, dtype)[0], together[row])


@pytest.mark.parametrize("dtype", emulated_kernels.TYPES)
def test_rows_of_experts_have_the_bits_that_linear_gives_them(library, linear, dtype):
    """Experts of one row, of fewer and of more rows than a tile of the unit has."""
    x, weight, ids = random(0, 90, 330), random(1, 6, 40, 330), torch.randint(0, 6, (90, 2), dtype=torch.int32)
    ids[:70, 0], ids[:, 1] = 2, 3
    ids[5, 1] = 5
    out = emulated_kernels.grouped_linear(library, x, ids, weight, dtype)
    for token, choice in [(t, c) for t in range(0, 90, 7) for c in range(2)] + [(5, 1)]:
        alone = linear(x[token : token + 1], weight[int(ids[token, choice])], dtype)
        assert torch.equal(out[token, choice], alone[0])


needs_unit = pytest.mark.skipif("amx" not in kernels.supported_isas(), reason="this machine has no matrix unit")
SHAPES = [(1, 300), (17, 768), (40, 4100), (70, 65)]


@needs_unit
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_the_unit_itself_gives_the_bits_of_its_emulation(linear, by_native, rows, cols):
    x, weight = random(0, rows, cols), random(1, 83, cols)
    assert torch.equal(linear(x, weight), by_native("amx", x, weight, "bfloat16"))


@needs_unit
@pytest.mark.parametrize("dtype", ["int8", "int8-a16"])
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_the_unit_itself_gives_the_bits_of_products_without_it_for_int8_weights(by_native, rows, cols, dtype):
    """Of avx512, which fuses what follows the sums of int8-a16 as amx does, and generic does not."""
    x, weight = random(0, rows, cols), random(1, 83, cols)
    assert torch.equal(by_native("avx512", x, weight, dtype), by_native("amx", x, weight, dtype))
