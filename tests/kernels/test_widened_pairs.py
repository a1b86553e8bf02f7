"""Products of bfloat16 pairs by multiply-adds of floats: the bits of the instruction for pairs, denormals included."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, random, seeds, with_all_sizes
from test_quantized_linear import CASES, HALVES, quantized, same_bits

from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights.packed_weight import PackedWeight
from pagecli.model.weights.quantized import QuantizedFormat, QuantizedTensor

native = kernels._native
pytestmark = pytest.mark.skipif("avx512bf16" not in kernels.supported_isas(), reason="no instruction for pairs of bfloat16")


@pytest.fixture(autouse=True)
def pairs() -> Iterator[None]:
    before, isa = native.pairs_are_widened(), kernels.isa_name()
    native.select_isa("avx512bf16")
    yield
    native.widen_pairs(before)
    native.select_isa(isa)


def both_ways(x: torch.Tensor, weight: PackedWeight) -> list[torch.Tensor]:
    found = []
    for widened in (False, True):
        native.widen_pairs(widened)
        found.append(torch.full((x.shape[0], weight.num_rows), float("nan")))
        kernels.linear(found[-1], x, weight)
    return found


@examples
@given(
    seed=seeds,
    rows=st.integers(1, 14) | st.sampled_from([31, 97]),
    features=st.integers(1, 100),
    cols=st.integers(1, 70) | st.sampled_from([256, 4099]),
    sizes=st.sampled_from([with_all_sizes, random]),
)
def test_bfloat16_weights(seed, rows, features, cols, sizes):
    weight = kernels.pack_weight(sizes(seed + 1, features, cols), "bfloat16")
    assert same_bits(*both_ways(sizes(seed, rows, cols), weight))


@examples
@given(
    seed=seeds,
    rows=st.integers(1, 14) | st.sampled_from([31, 97]),
    features=st.integers(1, 100),
    runs=st.sampled_from([1, 2, 5, 18, 129]),
    kind=st.sampled_from([*HALVES]),
    sizes=st.sampled_from([with_all_sizes, random]),
)
def test_quantized_weights(seed, rows, features, runs, kind, sizes):
    tensor = quantized(kind, seed, features, 32 * runs)[0]
    packed = kernels.pack_quantized(tensor, "bfloat16")
    assert packed is not None
    x = sizes(seed, rows, tensor.shape[1])
    dequantized = kernels.pack_weight(torch.from_numpy(tensor.dequantized()), "bfloat16")
    found = [*both_ways(x, packed), *both_ways(x, dequantized)]
    assert all(same_bits(found[0], each) for each in found[1:])


@pytest.mark.parametrize("rows", [1, 2, 7])  # weights are made in a tile of one row, and before tiles of more
def test_weights_of_24_bits_are_rounded_to_bfloat16_to_nearest_even(rows):
    """Scales of all that is near a power of two or a tie, with the number 1: what a row of zeros and a one finds."""
    near = np.arange(-600, 600)
    bits = np.concatenate([each + near for each in (0x3F800000, 0x40000000, 0x3F808000, 0x3F818000, 0x3FFF8000)])
    scale = np.concatenate([bits, bits | 1 << 31]).astype(np.uint32).view(np.float32).reshape(-1, 1)
    tensor = QuantizedTensor(QuantizedFormat(8, 32, wide=True), np.ones((len(scale), 32), np.int8), scale)
    x = torch.zeros(rows, 32)
    x[:, 3] = 1.0
    expected = torch.from_numpy(scale[:, 0]).bfloat16().float()
    for out in both_ways(x, kernels.pack_quantized(tensor, "bfloat16")):
        assert torch.equal(out, expected.expand(rows, -1))


@pytest.mark.parametrize("kind", [kind for kind in HALVES if quantized(kind, 0, 1, 256)[0].offset is not None])
def test_sums_of_scale_and_offset_are_rounded_so_too(kind):
    """Sums of both fill 24 bits; few of many are so near to a power of two that a rounding that is nearly right shows."""
    tensor = quantized(kind, 3, 2048, 1024)[0]
    x, weight = random(4, 1, 1024), kernels.pack_quantized(tensor, "bfloat16")
    dequantized = kernels.pack_weight(torch.from_numpy(tensor.dequantized()), "bfloat16")
    found = [*both_ways(x, weight), *both_ways(x, dequantized)]
    assert all(same_bits(found[0], each) for each in found[1:])


@pytest.mark.parametrize(("dtype", "kind"), [case for case in CASES if case[0] == "bfloat16"])
def test_argmax_and_experts(dtype, kind):
    weight = kernels.pack_quantized(quantized(kind, 5, 512, 256)[0], dtype)
    x, ids = random(6, 9, weight.num_cols), torch.tensor([[0, 1]] * 9, dtype=torch.int32)
    experts = kernels.pack_quantized_experts((quantized(kind, seed, 70, 256)[0] for seed in (1, 2)), 2, dtype)
    found = []
    for widened in (False, True):
        native.widen_pairs(widened)
        best, out = torch.empty(9, dtype=torch.int64), torch.empty(9, 2, 70)
        kernels.linear_argmax(best, x, weight, kernels.pack_bounds(weight))
        kernels.grouped_linear(out, x, ids, experts)
        found.append((best, out))
    assert torch.equal(found[0][0], found[1][0])
    assert same_bits(found[0][1], found[1][1])


def test_bias_activation_and_residual_keep_denormals():
    """Zeros in place of denormals are for products alone."""
    weight, x = kernels.pack_weight(torch.zeros(16, 64), "bfloat16"), torch.zeros(1, 64)
    native.widen_pairs(True)
    out = torch.full((1, 16), 1e-40)
    kernels.linear(out, x, weight, torch.full((16,), 1e-41), accumulate=True)
    assert torch.equal(out, torch.full((1, 16), 1e-40) + torch.full((1, 16), 1e-41))
