"""A value between two products that the first hands over as the second multiplies it: the bits of products through rows."""

import emulated_kernels
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, random, seeds, strided
from test_linear import ACTIVATIONS

from pagecli.devices.cpu import kernels

num_rows = st.integers(0, 70) | st.sampled_from([97, 130, 500])
handed_sizes = st.integers(1, 8).map(lambda chunks: 32 * chunks) | st.sampled_from([768, 3072])
products = {"seed": seeds, "rows": num_rows, "cols": st.integers(1, 100), "between": handed_sizes}
products |= {"activation": st.sampled_from(ACTIVATIONS), "has_bias": st.booleans()}


def both_ways(x, first, bias, activation, second):
    """(through rows, handed over): second @ activation(first @ x + bias), which is added to a residual."""
    found = []
    for handed in (False, True):
        between, out = torch.full((len(x), first.num_rows), float("nan")), torch.ones(len(x), second.num_rows)
        kernels.linear(between, x, first, bias, activation, hands_over=handed)
        kernels.linear(out, between, second, None, "none", True, x_is_handed_over=handed)
        found.append(out)
    return found


@examples
@given(**products, features=st.integers(1, 100), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_it_is_what_the_second_makes_of_rows(isa, seed, rows, cols, between, features, dtype, activation, has_bias):
    first = kernels.pack_weight(random(seed, between, cols), dtype)
    second = kernels.pack_weight(random(seed + 1, features, between), dtype)
    bias = random(seed + 2, between) if has_bias else None
    by_rows, handed = both_ways(random(seed + 3, rows, cols), first, bias, activation, second)
    assert torch.equal(by_rows, handed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_more_rows_than_are_laid_out_at_a_time(isa, dtype):
    first = kernels.pack_weight(random(0, 3072, 70), dtype)
    by_rows, handed = both_ways(random(2, 1500, 70), first, None, "relu", kernels.pack_weight(random(1, 20, 3072), dtype))
    assert torch.equal(by_rows, handed)


@pytest.mark.skipif("amx" not in kernels.supported_isas(), reason="only a matrix unit gates products")
@examples
@given(**products)
def test_a_gated_product_is_a_product_and_its_gated_activation(restore_isa, seed, rows, cols, between, activation, has_bias):
    assert kernels._native.select_isa("amx")
    x, weight = random(seed, rows, cols), kernels.pack_weight(random(seed + 1, 2 * between, cols), "bfloat16")
    bias = random(seed + 2, 2 * between) if has_bias else None
    both, expected, gated = torch.empty(rows, 2 * between), torch.empty(rows, between), strided(torch.empty(rows, between))
    kernels.linear(both, x, weight, bias)
    kernels.gated_activation(expected, both, activation)
    kernels.linear(gated, x, weight, bias, activation, is_gated=True)
    assert torch.equal(gated, expected)
    assert gaps(gated).isnan().all()
    down, by_rows, handed = (
        kernels.pack_weight(random(seed + 3, 20, between), "bfloat16"),
        torch.empty(rows, 20),
        torch.empty(rows, 20),
    )
    kernels.linear(by_rows, expected, down)
    kernels.linear(expected, x, weight, bias, activation, hands_over=True, is_gated=True)
    kernels.linear(handed, expected, down, x_is_handed_over=True)
    assert torch.equal(handed, by_rows)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33, 64, 100])
def test_a_matrix_unit_reads_what_it_hands_over(tmp_path_factory, rows):
    library = emulated_kernels.build(tmp_path_factory, "PAGECLI_EMULATE_TILES", "PAGECLI_EMULATE_PAIR_DOT")
    x, first, second = random(0, rows, 70), random(1, 96, 70), random(2, 20, 96)
    expected = emulated_kernels.linear(library, emulated_kernels.linear(library, x, first), second)
    assert torch.equal(emulated_kernels.handed_over(library, x, first, second), expected)
    up = random(3, 96, 70)
    gated = emulated_kernels.linear(library, x, first) * emulated_kernels.linear(library, x, up)
    expected = emulated_kernels.linear(library, gated, second)
    assert torch.equal(emulated_kernels.handed_over(library, x, torch.cat([first, up]), second), expected)


def test_what_cannot_be_handed_over_is_refused():
    x, out = torch.zeros(2, 64), torch.zeros(2, 64)
    for dtype, refused in (("int8", "only products of"), ("float32", "is not added to")):
        with pytest.raises(ValueError, match=refused):
            kernels.linear(out, x, kernels.pack_weight(torch.zeros(64, 64), dtype), accumulate=True, hands_over=True)
    narrow = kernels.pack_weight(torch.zeros(40, 64), "float32")
    with pytest.raises(ValueError, match="whole 32 columns, got 40"):
        kernels.linear(torch.zeros(2, 40), x, narrow, hands_over=True)
    with pytest.raises(ValueError, match="expected bfloat16, whole 64 rows and amx, got 64 rows"):
        kernels.linear(torch.zeros(2, 32), x, kernels.pack_weight(torch.zeros(64, 64), "float32"), is_gated=True)
    with pytest.raises(ValueError, match="out"):
        kernels.linear(torch.zeros(2, 80)[:, :64], x, kernels.pack_weight(torch.zeros(64, 64), "float32"), hands_over=True)
