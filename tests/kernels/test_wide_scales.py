"""8-bit weights with float32 scales stay as they are: float8 (e4m3) and integers. Their numbers are torch's, products those of
the same weights dequantized before, to the bit.

Tolerance: as of quantized weights (test_quantized_linear.py).
"""

import emulated_kernels
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from shapes import examples, random, seeds
from test_quantized_linear import DTYPES, check, same_bits

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import formats
from pagecli.model.weights.quantized import QuantizedFormat, QuantizedTensor

KINDS = ("float8", "int8")
CASES = [(dtype, kind) for dtype in DTYPES for kind in KINDS]


def quantized(kind: str, seed: int, rows: int, cols: int, group: int = 64) -> QuantizedTensor:
    generator = np.random.Generator(np.random.PCG64(seed))
    scale = (generator.normal(0, 1, (rows, cols // group)) * 2.0 ** generator.integers(-20, 3)).astype(np.float32)
    made_of = QuantizedFormat(8, group, float8=kind == "float8", wide=True)
    if kind == "int8":
        return QuantizedTensor(made_of, generator.integers(-128, 128, (rows, cols), dtype=np.int8), scale)
    codes = generator.integers(0, 256, (rows, cols), dtype=np.uint8)
    return QuantizedTensor(made_of, np.where(codes & 127 == 127, np.uint8(8), codes), scale)


def test_float8_numbers_are_torchs():
    tensor = quantized("float8", 1, 20, 256)
    values = torch.from_numpy(tensor.q).view(torch.float8_e4m3fn).float()
    expected = values * torch.from_numpy(tensor.scale).repeat_interleave(64, dim=1)
    assert torch.equal(torch.from_numpy(tensor.dequantized()), expected)


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_a_packed_weight_lies_as_its_definition_says_and_comes_back(isa, dtype, kind, group):
    tensor = quantized(kind, 2, 37, 256, group)
    packed, defined = kernels.pack_quantized(tensor, dtype), formats.pack_quantized(tensor, dtype)
    assert np.array_equal(packed.data, defined.data)
    assert packed.nbytes - 128 == 48 * 256 * tensor.format.bits_each / 8
    exact = torch.from_numpy(tensor.dequantized())
    assert torch.equal(formats.unpack_weight(packed), exact.bfloat16().float() if dtype == "bfloat16" else exact)


@examples
@given(
    seed=seeds,
    rows=st.integers(0, 40) | st.sampled_from([61, 97]),
    features=st.integers(1, 100),
    runs=st.sampled_from([1, 2, 3, 5, 18, 48, 129]),
    case=st.sampled_from(CASES),
    group=st.sampled_from([32, 64, 128, 256]),
)
@example(seed=262145, rows=1, features=31, runs=1, case=("bfloat16", "int8"), group=32)  # a product beside a tie of bfloat16
def test_linear(isa, seed, rows, features, runs, case, group):
    dtype, kind = case
    tensor = quantized(kind, seed, features, -(-32 * runs // group) * group, group)
    x, out = random(seed, rows, tensor.shape[1]), torch.full((rows, features), float("nan"))
    kernels.linear(out, x, kernels.pack_quantized(tensor, dtype))
    check(out, x, tensor, dtype, isa)
    dequantized = torch.empty(rows, features)
    kernels.linear(dequantized, x, kernels.pack_weight(torch.from_numpy(tensor.dequantized()), dtype))
    assert same_bits(out, dequantized)
    for first, last in ((0, 1), (3, 19)):
        part = torch.empty(max(0, min(last, rows) - first), features)
        kernels.linear(part, x[first:last], kernels.pack_quantized(tensor, dtype))
        assert same_bits(part, out[first:last])


@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_looked_up_rows_and_argmax_are_those_that_are_multiplied(isa, dtype, kind):
    tensor = quantized(kind, 4, 512, 128)
    weight, values = kernels.pack_quantized(tensor, dtype), torch.from_numpy(tensor.dequantized())
    ids, rows = torch.tensor([0, 69, 3, 15, 16, 511], dtype=torch.int32), torch.empty(6, 128)
    kernels.embedding(rows, ids, weight)
    assert torch.equal(rows, (values.bfloat16().float() if dtype == "bfloat16" else values)[ids.long()])
    x, sums, expected = random(6, 9, 128), torch.empty(9, 512), torch.empty(9, dtype=torch.int64)
    kernels.linear(sums, x, weight)
    kernels.argmax(expected, sums)
    for bounds in (None, kernels.pack_bounds(weight)):
        out = torch.empty(9, dtype=torch.int64)
        kernels.linear_argmax(out, x, weight, bounds)
        assert torch.equal(out, expected)


def test_scales_of_sizes_that_no_model_has_are_not_kept():
    tensor = quantized("float8", 1, 40, 64)
    for value in (np.inf, np.nan, 2.0**-70, 2.0**70):
        tensor.scale[17, 0] = value
        assert kernels.pack_quantized(tensor, "bfloat16") is None
    tensor.scale[17, 0] = 0.0
    assert kernels.pack_quantized(tensor, "bfloat16") is not None


@pytest.mark.parametrize(("at", "value"), [(6, 2), (7, 2), (1, 4), (2, 1), (4, 16), (5, 8)])
def test_headers_that_say_no_such_weight_are_refused(isa, at, value):
    packed = kernels.pack_quantized(quantized("float8", 8, 16, 64), "float32")
    packed.data[:32].view(np.int32)[at] = value
    with pytest.raises(ValueError, match=r"weight\.data"):
        kernels._native.linear(torch.empty(1, 16), torch.zeros(1, 64), packed.data, 16, 64, None, "none", False, None)


@pytest.mark.slow
@pytest.mark.parametrize(("isa", "instructions"), [("avx512bf16", ["PAIR_DOT"]), ("amx", ["PAIR_DOT", "TILES"])])
def test_products_of_instructions_that_this_machine_may_not_have(tmp_path_factory, isa, instructions):
    library = emulated_kernels.build(tmp_path_factory, *(f"PAGECLI_EMULATE_{name}" for name in instructions))
    for dtype, kind in CASES:
        tensor, x = quantized(kind, 3, 40, 128), random(1, 20, 128)
        packed = kernels.pack_quantized(tensor, dtype)
        out = emulated_kernels.quantized(library, x, packed)
        check(out, x, tensor, dtype, isa)
        for first, last in ((0, 1), (3, 19)):
            assert same_bits(emulated_kernels.quantized(library, x[first:last], packed), out[first:last])
