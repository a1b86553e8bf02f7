"""The operations of a mixture of experts against their definitions; a row has the same bits in any batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, random, row_sizes, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import experts as reference
from pagecli.model.weights.packed.mxfp4 import E2M1
from pagecli.model.weights.quantized import in_groups

DTYPES = ("float32", "bfloat16", "int8", "int8-a16")
MXFP4 = tuple(value * 2.0**-12 for value in E2M1)
KEPT = [(bits, dtype) for bits in (4, 8) for dtype in ("float32", "bfloat16")]


def packed(seed, num_experts, rows, cols, dtype):
    return kernels.pack_experts((random(seed + e, rows, cols) for e in range(num_experts)), num_experts, dtype)


def quantized(seed, rows, cols, bits):
    """Of 4 bits MXFP4, whose scales go from the least to the largest that float16 has."""
    generator = np.random.Generator(np.random.PCG64(seed))
    if bits == 8:
        scale = generator.normal(0, 0.05, (rows, cols // 32)).astype(np.float16)
        return in_groups(generator.integers(-128, 128, (rows, cols), dtype=np.int8), scale)
    scale = (2.0 ** generator.integers(-24, 16, (rows, cols // 32))).astype(np.float16)
    return in_groups(generator.integers(0, 16, (rows, cols), dtype=np.uint8), scale, table=MXFP4)


def kept(seed, num_experts, rows, cols, bits, dtype):
    return kernels.pack_quantized_experts(
        (quantized(seed + e, rows, cols, bits) for e in range(num_experts)), num_experts, dtype
    )


def chosen(seed, tokens, num_experts, count):
    """Experts of each token, no one twice, some much more often than others."""
    liking = random(seed, tokens, num_experts) + torch.linspace(0, 3, num_experts)
    return liking.argsort(dim=-1, descending=True)[:, :count].int()


def row_by_row(x, ids, weight, bias):
    """Each (token, choice) by a `linear` of its own."""
    out = torch.empty(*ids.shape, weight.num_rows)
    for t, c in np.ndindex(*ids.shape):
        row = x[t : t + 1] if x.dim() == 2 else x[t, c : c + 1]
        expert = int(ids[t, c])
        kernels.linear(out[t, c : c + 1], row, weight.expert(expert), None if bias is None else bias[expert])
    return out


@pytest.mark.slow
@examples
@given(
    seed=seeds,
    tokens=st.integers(0, 30),
    num_experts=st.integers(1, 9),
    rows=row_sizes,
    cols=row_sizes,
    dtype=st.sampled_from(DTYPES),
    has_bias=st.booleans(),
    of_choices=st.booleans(),
)
def test_a_row_has_the_bits_that_its_experts_linear_gives_it_alone(
    isa, seed, tokens, num_experts, rows, cols, dtype, has_bias, of_choices
):
    count = 1 + seed % num_experts
    weight, ids = packed(seed, num_experts, rows, cols, dtype), chosen(seed, tokens, num_experts, count)
    x = strided(random(seed + 50, tokens, count, cols) if of_choices else random(seed + 50, tokens, cols))
    bias = random(seed + 60, num_experts, rows) if has_bias else None
    out = torch.full((tokens, count, rows), float("nan"))
    kernels.grouped_linear(out, x, ids, weight, bias)
    assert torch.equal(out, row_by_row(x, ids, weight, bias))


@pytest.mark.parametrize(("bits", "dtype"), KEPT)
@pytest.mark.parametrize(("tokens", "rows", "cols"), [(1, 20, 64), (7, 48, 96), (40, 33, 320)])
def test_so_do_experts_that_stay_quantized(isa, bits, dtype, tokens, rows, cols):
    weight, ids, x = kept(tokens, 6, rows, cols, bits, dtype), chosen(1, tokens, 6, 3), random(2, tokens, cols)
    out, bias = torch.full((tokens, 3, rows), float("nan")), random(3, 6, rows)
    kernels.grouped_linear(out, x, ids, weight, bias)
    assert torch.equal(out, row_by_row(x, ids, weight, bias))
    expected = torch.empty(tokens, 3, rows, dtype=torch.float64)
    if dtype == "float32" or isa not in ("avx512bf16", "amx"):
        reference.grouped_linear(expected, x.double(), ids, weight, bias.double())
        torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_experts_of_two_formats_are_not_kept():
    tensors = [quantized(e, 16, 64, 4) for e in range(3)]
    assert kernels.pack_quantized_experts(iter(tensors), 3, "float32") is not None
    other = replace(tensors[2], format=replace(tensors[2].format, table=tuple(map(float, range(16)))))
    for last in (other, tensors[2].with_groups(16), quantized(0, 16, 64, 8), quantized(0, 32, 64, 4), None):
        assert kernels.pack_quantized_experts(iter([*tensors[:2], last]), 3, "float32") is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_many_experts_do_not_depend_on_the_batch_or_on_threads(isa, dtype, restore_threads):
    """More rows than are laid out at once, more experts than one batch of work takes, one expert that most tokens choose."""
    tokens, num_experts, rows, cols = 400, 150, 40, 900
    weight, ids = packed(0, num_experts, rows, cols, dtype), chosen(1, tokens, num_experts, 4)
    ids[:300, 0] = 7
    x, together = random(2, tokens, cols), torch.empty(tokens, 4, rows)
    kernels.grouped_linear(together, x, ids, weight)
    for threads in (1, 3):
        kernels.set_num_threads(threads)
        for first, last in ((0, 400), (0, 1), (17, 18), (299, 302), (100, 164), (5, 330)):
            out = torch.empty(last - first, 4, rows)
            kernels.grouped_linear(out, x[first:last], ids[first:last], weight)
            assert torch.equal(out, together[first:last]), (threads, first, last)
    assert torch.equal(row_by_row(x[290:310], ids[290:310], weight, None), together[290:310])


def test_the_definition_is_linear_by_each_rows_expert(isa):
    weight, ids, x, bias = packed(0, 5, 33, 70, "float32"), chosen(1, 11, 5, 2), random(2, 11, 70), random(3, 5, 33)
    out, expected = torch.empty(11, 2, 33), torch.empty(11, 2, 33, dtype=torch.float64)
    kernels.grouped_linear(out, x, ids, weight, bias)
    reference.grouped_linear(expected, x.double(), ids, weight, bias.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_no_row_chose_are_not_read(isa):
    """They may not be numbers, nor be in memory."""
    weights = [random(e, 20, 64) for e in range(4)]
    weights[2][:] = float("nan")
    out = torch.empty(3, 1, 20)
    kernels.grouped_linear(
        out, random(9, 3, 64), torch.tensor([[3], [0], [1]], dtype=torch.int32), kernels.pack_experts(weights, 4, "float32")
    )
    assert out.isfinite().all()


@examples
@given(seed=seeds, tokens=st.integers(0, 20), num_experts=st.integers(1, 140), normalize=st.booleans())
def test_router(isa, seed, tokens, num_experts, normalize):
    count = 1 + seed % min(num_experts, 9)
    logits = strided((random(seed, tokens, num_experts) * 4).round(decimals=seed % 3))  # often equal
    ids, weights = torch.full((tokens, count), -1, dtype=torch.int32), strided(torch.full((tokens, count), float("nan")))
    kernels.router(ids, weights, logits, normalize)
    expected_ids, expected = torch.empty_like(ids), torch.empty(tokens, count, dtype=torch.float64)
    reference.router(expected_ids, expected, logits.double(), normalize)
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(weights.double(), expected, rtol=3e-6, atol=1e-12)
    assert gaps(weights).isnan().all()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("at", [0, 5, 18])
def test_a_logit_that_is_not_a_number_spoils_its_rows_weights_alone(isa, at, normalize):
    logits = random(0, 3, 19)
    logits[1, at] = float("nan")
    ids, weights = torch.empty(3, 4, dtype=torch.int32), torch.empty(3, 4)
    kernels.router(ids, weights, logits, normalize)
    assert weights[1].isnan().all()
    assert weights[[0, 2]].isfinite().all()
    assert ((ids >= 0) & (ids < 19)).all()
    assert len(set(ids[1].tolist())) == 4


@examples
@given(
    seed=seeds,
    tokens=st.integers(0, 30),
    count=st.integers(1, 8),
    width=row_sizes,
    beside=st.sampled_from(["", "shared", "gated"]),
    accumulate=st.booleans(),
)
def test_combine_experts(isa, seed, tokens, count, width, beside, accumulate):
    x, weights, before = random(seed, tokens, count, width), random(seed + 1, tokens, count), random(seed + 2, tokens, width)
    shared = random(seed + 3, tokens, width) if beside else None
    gate = random(seed + 4, tokens, 1) if beside == "gated" else None
    out, expected = strided(before), before.double()
    kernels.combine_experts(out, x, weights, shared, gate, accumulate)
    wide = [None if value is None else value.double() for value in (shared, gate)]
    reference.combine_experts(expected, x.double(), weights.double(), *wide, accumulate)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=2e-6)
    assert gaps(out).isnan().all()


def test_what_does_not_fit_is_refused_in_one_line():
    ids, weight = torch.zeros(2, 3, dtype=torch.int32), packed(0, 4, 16, 8, "float32")
    out, x = torch.empty(2, 3, 16), torch.empty(2, 8)
    with pytest.raises(ValueError, match=r"ids\[1, 2\]: expected an expert below 4, got 4"):
        kernels.grouped_linear(out, x, torch.tensor([[0, 1, 2], [0, 1, 4]], dtype=torch.int32), weight)
    with pytest.raises(ValueError, match=r"x: expected \[2, 3, 8\], got \[2, 3, 9\]"):
        kernels.grouped_linear(out, torch.empty(2, 3, 9), ids, weight)
    with pytest.raises(ValueError, match=r"out: expected a token's rows side by side"):
        kernels.grouped_linear(torch.empty(2, 6, 16)[:, :3], x, ids, weight)
    with pytest.raises(ValueError, match="expected 1 to 2 experts a token, got 3"):
        kernels.router(ids, torch.empty(2, 3), torch.empty(2, 2), False)
