"""Weights that stay quantized in memory: their numbers are the gguf package's own, products are those of the same weights
dequantized before, to the bit, and held against the definition in float64, and a row has the same bits in any batch.

Tolerance: as of linear (test_linear.py); weights of bfloat16 are rounded to it, and x where pairs are multiplied.
"""

import math
from dataclasses import replace

import emulated_kernels
import gguf
import gguf_random
import numpy as np
import pytest
import torch
from gguf_random import HALVES
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, random, seeds, strided, with_all_sizes

from pagecli.core.token_masks import num_words
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights.quantized_weight import can_pack
from pagecli.devices.reference import formats
from pagecli.model.weights.gguf_blocks import BLOCK_TYPES
from pagecli.model.weights.quantized import QuantizedFormat, QuantizedTensor

EPSILON = 2.0**-24
DTYPES = ("float32", "bfloat16")
TYPES = {name: gguf.GGMLQuantizationType[name] for name in HALVES}
CASES = [(dtype, kind) for dtype in DTYPES for kind in HALVES]
GROUPS = [("Q4_0", 64), ("Q4_1", 64), ("Q4_1", 128), ("Q8_0", 128), ("Q5_1", 256)]  # wider than the type's own


def quantized(kind: str, seed: int, rows: int, cols: int) -> tuple[QuantizedTensor, torch.Tensor]:
    """Random blocks of that type taken apart, and the gguf package's own values; `cols` rounded up to whole blocks."""
    stored = gguf_random.blocks(kind, seed, rows, cols)
    return BLOCK_TYPES[TYPES[kind]].take_apart(stored), torch.from_numpy(gguf.quants.dequantize(stored, TYPES[kind]))


def of_groups(tensor: QuantizedTensor, group: int) -> QuantizedTensor:
    """The same numbers with fewer scales."""
    every = slice(None, None, group // tensor.format.group)
    scale, offset = (None if part is None else np.ascontiguousarray(part[:, every]) for part in (tensor.scale, tensor.offset))
    return replace(tensor, format=replace(tensor.format, group=group), scale=scale, offset=offset)


def check(out: torch.Tensor, x: torch.Tensor, tensor: QuantizedTensor, dtype: str, isa: str) -> None:
    """That `out` is x times the weights, `x` as this instruction set multiplies it."""
    pairs = dtype == "bfloat16" and isa in ("avx512bf16", "amx")
    x = (x.bfloat16() if pairs else x).double()
    weight = torch.from_numpy(tensor.dequantized())
    weight = (weight.bfloat16() if dtype == "bfloat16" else weight).double()
    tolerance = EPSILON * (8 + 2 * math.sqrt(x.shape[1])) * (x.abs() @ weight.abs().T)
    assert ((out.double() - x @ weight.T).abs() <= tolerance).all()


def same_bits(x: torch.Tensor, y: torch.Tensor) -> bool:
    return torch.equal(x.contiguous().view(torch.int32), y.contiguous().view(torch.int32))


@pytest.mark.parametrize("kind", HALVES)
def test_blocks_stand_for_the_numbers_that_the_gguf_package_makes_of_them(kind):
    tensor, values = quantized(kind, 1, 50, 96)
    assert np.array_equal(tensor.dequantized(), values.numpy())
    stored = BLOCK_TYPES[TYPES[kind]]
    assert (stored.num_columns, stored.num_bytes) == gguf.GGML_QUANT_SIZES[TYPES[kind]]
    assert tensor.format == stored.format
    assert stored.format.bits_each <= 8 * stored.num_bytes / stored.num_columns + 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "group"), [*((kind, 0) for kind in HALVES), *GROUPS])
def test_a_packed_weight_lies_as_its_definition_says_and_comes_back(isa, dtype, kind, group):
    tensor = quantized(kind, 2, 37, 256)[0]
    tensor = of_groups(tensor, group) if group else tensor
    packed, defined = kernels.pack_quantized(tensor, dtype), formats.pack_quantized(tensor, dtype)
    assert np.array_equal(packed.data, defined.data)
    assert (packed.dtype, packed.num_rows, packed.num_cols) == (dtype, 37, 256)
    assert packed.nbytes - 128 == 48 * 256 * tensor.format.bits_each / 8
    exact = torch.from_numpy(tensor.dequantized())
    assert torch.equal(formats.unpack_weight(packed), exact.bfloat16().float() if dtype == "bfloat16" else exact)


@examples
@given(
    seed=seeds,
    rows=st.integers(0, 40) | st.sampled_from([61, 97, 130]),
    features=st.integers(1, 100),
    runs=st.sampled_from([1, 2, 3, 5, 18, 48, 129]),
    dtype=st.sampled_from(DTYPES),
    case=st.sampled_from([*((kind, 0) for kind in HALVES), *GROUPS]),
)
def test_linear(isa, seed, rows, features, runs, dtype, case):
    kind, group = case
    cols = -(-32 * runs // (group or 32)) * (group or 32)
    tensor = quantized(kind, seed, features, cols)[0]
    tensor = of_groups(tensor, group) if group else tensor
    x, out = strided(random(seed, rows, tensor.shape[1])), strided(torch.full((rows, features), float("nan")))
    kernels.linear(out, x, kernels.pack_quantized(tensor, dtype))
    check(out, x, tensor, dtype, isa)
    assert gaps(out).isnan().all()
    dequantized = torch.empty(rows, features)
    kernels.linear(dequantized, x, kernels.pack_weight(torch.from_numpy(tensor.dequantized()), dtype))
    assert same_bits(out, dequantized)


@examples
@given(
    seed=seeds,
    rows=st.integers(1, 8) | st.sampled_from([33, 97]),
    features=st.integers(1, 40),
    runs=st.sampled_from([1, 3, 18]),
    dtype=st.sampled_from(DTYPES),
    offset=st.sampled_from(["none", "low"]),
    power=st.integers(-33, 33),
)
def test_any_table_of_bytes(isa, seed, rows, features, runs, dtype, offset, power):
    generator = np.random.Generator(np.random.PCG64(seed))
    table = generator.integers(-127, 128, 16)
    table[generator.integers(16)] = 127  # the largest
    q = generator.integers(0, 16, (features, 32 * runs), dtype=np.uint8)
    scale, low = (generator.normal(0, 0.1, (features, runs)).astype(np.float16) for _ in range(2))
    made_of = QuantizedFormat(4, 32, offset, table=tuple(map(float, np.ldexp(table.astype(np.float64), power))))
    tensor = QuantizedTensor(made_of, q, scale, None if offset == "none" else low)
    x, out, dequantized = random(seed, rows, 32 * runs), torch.empty(rows, features), torch.empty(rows, features)
    kernels.linear(out, x, kernels.pack_quantized(tensor, dtype))
    kernels.linear(dequantized, x, kernels.pack_weight(torch.from_numpy(tensor.dequantized()), dtype))
    assert same_bits(out, dequantized)


@examples
@given(
    seed=seeds,
    rows=st.integers(1, 8),
    features=st.integers(1, 40),
    group=st.sampled_from([32, 64, 128]),
    dtype=st.sampled_from(DTYPES),
    first=st.sampled_from([0, -8, -7]),
    offset=st.sampled_from(["none", "zero", "low"]),
    power=st.integers(-33, 33),
)
def test_tables_of_equal_steps(isa, seed, rows, features, group, dtype, first, offset, power):
    """Scales and lows of both signs, zeros among them; beside a zero or low a table begins elsewhere than at 0, too."""
    generator = np.random.Generator(np.random.PCG64(seed))
    shape, cols = (features, 3), 3 * group
    q = generator.integers(0, 16, (features, cols), dtype=np.uint8)
    scale, low = (generator.choice([-0.0, 0.0, 0.1, 0.1, 0.1], shape) * generator.normal(0, 1, shape) for _ in range(2))
    if offset == "zero":
        power, low = 0, generator.integers(0, 16, shape)
    made_of = QuantizedFormat(4, group, offset, table=tuple(np.ldexp(np.arange(first, first + 16.0), power).tolist()))
    offsets = None if offset == "none" else low.astype(np.float16)
    tensor = QuantizedTensor(made_of, q, scale.astype(np.float16), offsets)
    x, out, dequantized = random(seed, rows, cols), torch.empty(rows, features), torch.empty(rows, features)
    kernels.linear(out, x, kernels.pack_quantized(tensor, dtype))
    kernels.linear(dequantized, x, kernels.pack_weight(torch.from_numpy(tensor.dequantized()), dtype))
    assert same_bits(out, dequantized)


@pytest.mark.parametrize("number", [0.3, 300.0, 2.0**-3, math.nan, math.inf])
def test_a_table_of_other_numbers_is_not_kept(number):
    """Beside 127."""
    tensor = quantized("IQ4_NL", 1, 16, 64)[0]
    assert can_pack(tensor)
    other = replace(tensor, format=replace(tensor.format, table=(number, *tensor.format.table[1:15], 127.0)))
    assert not can_pack(other)
    with pytest.raises(ValueError, match=r"weight\.data"):
        kernels.pack_quantized(other, "bfloat16")


@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_activations_of_all_sizes(isa, dtype, kind):
    """Denormals among them, sums of which are nearly nothing."""
    for seed in range(8):
        tensor = quantized(kind, seed, 40, 256)[0]
        x, dense = with_all_sizes(seed, 7, 256), kernels.pack_weight(torch.from_numpy(tensor.dequantized()), dtype)
        packed = kernels.pack_quantized(tensor, dtype)
        for rows in (1, 7):
            out, dequantized = torch.empty(rows, 40), torch.empty(rows, 40)
            kernels.linear(out, x[:rows], packed)
            kernels.linear(dequantized, x[:rows], dense)
            assert same_bits(out, dequantized)


@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_bias_activation_and_residual_follow_the_sums(isa, dtype, kind):
    weight = kernels.pack_quantized(quantized(kind, 9, 50, 96)[0], dtype)
    x, bias, residual = random(0, 9, weight.num_cols), random(1, 50), random(2, 9, 50)
    sums, out = torch.empty(9, 50), residual.clone()
    kernels.linear(sums, x, weight)
    kernels.linear(out, x, weight, bias, "relu", accumulate=True)
    assert torch.equal(out, (sums + bias).relu() + residual)


@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_a_row_does_not_depend_on_the_others_or_on_threads(isa, dtype, kind, restore_threads):
    weight = kernels.pack_quantized(quantized(kind, 3, 137, 768)[0], dtype)
    x = random(0, 90, 768)
    together = torch.empty(90, 137)
    kernels.linear(together, x, weight)
    for threads in (1, 2):
        kernels.set_num_threads(threads)
        for first, last in ((0, 90), (0, 1), (89, 90), (50, 57), (16, 32), (7, 68)):
            out = torch.empty(last - first, 137)
            kernels.linear(out, x[first:last], weight)
            assert same_bits(out, together[first:last])


@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_looked_up_rows_are_those_that_are_multiplied(isa, dtype, kind):
    tensor, _ = quantized(kind, 4, 70, 160)
    ids = torch.tensor([0, 69, 3, 15, 16, 3], dtype=torch.int32)
    out = torch.empty(6, tensor.shape[1])
    kernels.embedding(out, ids, kernels.pack_quantized(tensor, dtype))
    values = torch.from_numpy(tensor.dequantized())
    if dtype == "bfloat16":
        values = values.bfloat16().float()
    assert torch.equal(out, values[ids.long()])


@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_argmax_by_bounds_and_by_masks_is_that_of_the_sums(isa, dtype, kind):
    weight = kernels.pack_quantized(quantized(kind, 5, 512, 64)[0], dtype)
    x, sums, expected = random(6, 9, weight.num_cols), torch.empty(9, 512), torch.empty(9, dtype=torch.int64)
    kernels.linear(sums, x, weight)
    kernels.argmax(expected, sums)
    bounds = kernels.pack_bounds(weight)
    assert bounds is not None
    for chosen in (None, bounds):
        out = torch.empty(9, dtype=torch.int64)
        kernels.linear_argmax(out, x, weight, chosen)
        assert torch.equal(out, expected)
    words = np.random.default_rng(0).integers(0, 2**32, (9, num_words(512)), dtype=np.uint32)
    words[0] = 0
    words[0, 3] = 6  # two outputs of one panel
    rows = np.arange(9, dtype=np.int32)
    kernels.masked_argmax(out, x, weight, words, rows)
    kernels.restrict_logits(sums, words, rows)
    kernels.argmax(expected, sums)
    assert torch.equal(out, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("isa", "instructions"), [("avx512bf16", ["PAIR_DOT"]), ("amx", ["PAIR_DOT", "TILES"])])
def test_products_of_instructions_that_this_machine_may_not_have(tmp_path_factory, isa, instructions):
    library = emulated_kernels.build(tmp_path_factory, *(f"PAGECLI_EMULATE_{name}" for name in instructions))
    for kind in HALVES:
        for dtype in DTYPES:
            tensor = quantized(kind, 3, 40, 96)[0]
            x = random(1, 20, tensor.shape[1])
            packed = kernels.pack_quantized(tensor, dtype)
            out = emulated_kernels.quantized(library, x, packed)
            check(out, x, tensor, dtype, isa)
            for first, last in ((0, 1), (3, 19)):
                assert same_bits(emulated_kernels.quantized(library, x[first:last], packed), out[first:last])


def test_a_panel_is_a_weight_of_its_own(isa):
    tensor, _ = quantized("Q4_1", 7, 37, 64)
    whole = formats.unpack_weight(kernels.pack_quantized(tensor, "float32"))
    for index, first in enumerate(range(0, 37, 16)):
        panel = kernels.pack_quantized(tensor, "float32").panel(index)
        assert torch.equal(formats.unpack_weight(panel), whole[first : first + 16])


def test_bytes_that_are_no_quantized_weight_are_refused(isa):
    packed = kernels.pack_quantized(quantized("Q4_0", 8, 16, 64)[0], "float32")
    out, x = torch.empty(1, 16), torch.zeros(1, 64)
    bits_of_float = int(np.float32(0.3).view(np.int32))
    for at, value in ((0, 2), (1, 7), (2, 3), (3, 33), (3, 0), (3, 1024), (4, 8), (16, bits_of_float), (31, 0x7FC00000)):
        damaged = packed.data.copy()
        damaged[:128].view(np.int32)[at] = value
        with pytest.raises(ValueError, match=r"weight\.data"):
            kernels._native.linear(out, x, damaged, 16, 64, None, "none", False, None)
    for data in (packed.data[:100], packed.data[:-1]):
        with pytest.raises(ValueError, match=r"weight\.data"):
            kernels._native.linear(out, x, data, 16, 64, None, "none", False, None)


def test_scales_that_are_not_finite_are_not_kept(isa):
    tensor = quantized("Q4_1", 1, 40, 64)[0]
    for name in ("scale", "offset"):
        for value in (np.inf, -np.inf, np.nan):
            part = getattr(tensor, name)
            before, part[17, 1] = part[17, 1], value
            assert kernels.pack_quantized(tensor, "bfloat16") is None
            part[17, 1] = before
    assert kernels.pack_quantized(tensor, "bfloat16") is not None
