"""CUDA kernels of a mixture of experts against their definitions in float64; a row has the same bits in any batch."""

import pytest
import torch
from gpu_tensors import DEVICE, DTYPES, ULP, assert_near, gaps_are_untouched, int_tensor, poisoned, random, strided

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.linear import float8_rows
from pagecli.devices.reference import experts as reference
from pagecli.devices.reference import formats, operations

pytestmark = pytest.mark.cuda
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def chosen(seed: int, tokens: int, num_experts: int, count: int) -> torch.Tensor:
    """Experts of each token, no one twice, some much more often than others."""
    liking = random(seed, tokens, num_experts) + torch.linspace(0, 3, num_experts, device=DEVICE)
    return liking.argsort(dim=-1, descending=True)[:, :count].int().contiguous()


@dtypes
@pytest.mark.parametrize(("tokens", "rows", "cols"), [(0, 8, 64), (1, 1, 8), (3, 60, 264), (9, 33, 1032), (17, 128, 512)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_exact_linear(dtype, tokens, rows, cols, with_bias):
    x, weight = strided(random(1, tokens, cols, dtype=dtype)), random(2, rows, cols, scale=cols**-0.5)
    bias = random(3, rows) if with_bias else None
    out, expected = poisoned(tokens, rows, dtype=torch.float32), torch.empty(tokens, rows, dtype=torch.float64, device=DEVICE)
    kernels.exact_linear(out, x, weight, bias)
    operations.linear(expected, x.double(), weight.double(), None if bias is None else bias.double())
    assert_near(out, expected, 5e-6)
    for row in range(tokens):
        alone = poisoned(1, rows, dtype=torch.float32)
        kernels.exact_linear(alone, x[row : row + 1], weight, bias)
        assert torch.equal(alone[0], out[row])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("tokens", "num_experts", "count"), [(0, 8, 2), (1, 1, 1), (5, 8, 2), (7, 60, 4), (6, 128, 8), (3, 512, 32)]
)
def test_router(tokens, num_experts, count, normalize):
    for decimals in (0, 1, 6):  # often equal
        logits = strided((random(tokens + decimals, tokens, num_experts) * 4).round(decimals=decimals))
        ids, weights = poisoned(tokens, count, dtype=torch.int32), poisoned(tokens, count, dtype=torch.float32)
        kernels.router(ids, weights, logits, normalize, int_tensor([5] * tokens))
        expected_ids = torch.empty_like(ids)
        expected = torch.empty(tokens, count, dtype=torch.float64, device=DEVICE)
        reference.router(expected_ids, expected, logits.double(), normalize)
        assert torch.equal(ids, expected_ids)
        torch.testing.assert_close(weights.double(), expected, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("at", [0, 5, 18])
def test_a_logit_that_is_not_a_number_spoils_its_rows_weights_alone(at, normalize):
    logits = random(0, 3, 19)
    logits[1, at] = float("nan")
    ids, weights = poisoned(3, 4, dtype=torch.int32), poisoned(3, 4, dtype=torch.float32)
    kernels.router(ids, weights, logits, normalize, int_tensor([0, 1, 2]))
    assert weights[1].isnan().all()
    assert weights[[0, 2]].isfinite().all()
    assert ((ids >= 0) & (ids < 19)).all()
    assert len(set(ids[1].tolist())) == 4
    logits[1] = float("nan")
    kernels.router(ids, weights, logits, normalize, int_tensor([0, 1, 2]))
    assert weights[1].isnan().all()
    assert sorted(ids[1].tolist()) == [0, 1, 2, 3]


def test_a_padding_row_goes_nowhere():
    logits, ids, weights = random(0, 3, 8), poisoned(3, 2, dtype=torch.int32), poisoned(3, 2, dtype=torch.float32)
    token_ids = int_tensor([4, -1, 0])
    kernels.router(ids, weights, logits, True, token_ids)
    expected_ids, expected = torch.empty_like(ids), torch.empty(3, 2, dtype=torch.float64, device=DEVICE)
    reference.router(expected_ids, expected, logits.double(), True, token_ids)
    assert ids[1].tolist() == [-1, -1]
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(weights.double(), expected, rtol=3e-6, atol=1e-12)
    out, x = poisoned(3, 16, dtype=torch.float32), poisoned(3, 2, 16, dtype=torch.float32)
    x[[0, 2]] = 1.0
    kernels.combine_experts(out, x, weights)
    assert_near(out, torch.tensor([[1.0], [0.0], [1.0]], device=DEVICE).double().expand(3, 16), 1e-6)


@pytest.mark.parametrize("tile_rows", [16, 64])
@pytest.mark.parametrize(
    ("tokens", "num_experts", "count"), [(0, 8, 2), (1, 8, 2), (1, 128, 8), (40, 5, 3), (300, 7, 4), (80, 512, 2)]
)
def test_rows_are_sorted_by_expert_and_cut_into_tiles(tokens, num_experts, count, tile_rows):
    ids = chosen(tokens, tokens, num_experts, count)
    ids[3:5] = -1
    planned = kernels.sort_experts(ids, num_experts, tile_rows)
    order, tiles = reference.sort_experts(ids.cpu(), num_experts, tile_rows)
    assert torch.equal(planned.order[: len(order)].cpu(), order)
    assert torch.equal(planned.tiles[: len(tiles)].cpu(), tiles)
    assert (planned.tiles[len(tiles) :, 0] == -1).all()
    assert torch.equal(reference.ids_of(planned.order.cpu(), planned.tiles.cpu(), count), ids.cpu())


@pytest.mark.parametrize("num_experts", [1, 7, 64])
def test_the_worst_choices_fill_all_tiles(num_experts):
    """One row in every expert but one, all others in that; and rows that just begin another tile in each."""
    for counts in ([1] * (num_experts - 1) + [130], [17] * num_experts):
        ids = torch.cat([torch.full((count,), expert) for expert, count in enumerate(counts)])
        planned = kernels.sort_experts(ids.int().view(-1, 1).to(DEVICE), num_experts, 16)
        assert (planned.tiles[:, 0] >= 0).sum() == sum(-(-count // 16) for count in counts)


@pytest.mark.parametrize(
    ("dtype", "tile_rows"), [(torch.float32, 16), *((dtype, rows) for dtype in DTYPES[:2] for rows in (16, 64))], ids=str
)
@pytest.mark.parametrize(
    ("tokens", "num_experts", "count", "rows", "cols"),
    [(0, 4, 2, 16, 16), (1, 8, 2, 8, 8), (5, 4, 4, 72, 64), (30, 3, 2, 136, 200), (90, 2, 1, 40, 328)],
)
@pytest.mark.parametrize("of_choices", [False, True])
def test_grouped_linear(dtype, tile_rows, tokens, num_experts, count, rows, cols, of_choices):
    weight = random(1, num_experts, rows, cols, dtype=dtype, scale=cols**-0.5)
    ids, bias = chosen(2, tokens, num_experts, count), random(3, num_experts, rows) if rows != 40 else None
    x = strided(random(4, tokens, count, cols, dtype=dtype) if of_choices else random(4, tokens, cols, dtype=dtype))
    out = poisoned(tokens, count, rows, dtype=dtype)
    expected = torch.empty(tokens, count, rows, dtype=torch.float64, device=DEVICE)
    kernels.grouped_linear(out, x, kernels.sort_experts(ids, num_experts, tile_rows), weight, bias)
    reference.grouped_linear(expected, x.double(), ids, weight.double(), None if bias is None else bias.double())
    assert_near(out, expected, 2 * ULP[dtype])
    assert gaps_are_untouched(x)


@dtypes
def test_a_row_has_the_same_bits_in_any_batch_and_tile(dtype):
    tokens, num_experts, count, rows, cols = 80, 3, 2, 144, 200
    weight, ids = random(1, num_experts, rows, cols, dtype=dtype), chosen(2, tokens, num_experts, count)
    x, bias = random(4, tokens, cols, dtype=dtype), random(3, num_experts, rows)
    found = []
    for tile_rows in (16, 64) if dtype != torch.float32 else (16,):
        out = poisoned(tokens, count, rows, dtype=dtype)
        kernels.grouped_linear(out, x, kernels.sort_experts(ids, num_experts, tile_rows), weight, bias)
        found.append(out)
    assert all(torch.equal(out, found[0]) for out in found)
    for first, last in ((0, 1), (17, 18), (5, 29), (40, 80)):
        own, out = ids[first:last].contiguous(), poisoned(last - first, count, rows, dtype=dtype)
        kernels.grouped_linear(out, x[first:last], kernels.sort_experts(own, num_experts, 16), weight, bias)
        assert torch.equal(out, found[0][first:last]), (first, last)


@pytest.mark.parametrize("tile_rows", [16, 64])
@pytest.mark.parametrize(("tokens", "num_experts", "count", "rows", "cols"), [(1, 8, 2, 8, 16), (70, 3, 2, 136, 208)])
def test_experts_in_8_bit_floats(tokens, num_experts, count, rows, cols, tile_rows):
    """Exactly the numbers that the weights are rounded to; the same bits alone."""
    pairs = [float8_rows(random(e, rows, cols)) for e in range(num_experts)]
    narrow, scales = torch.stack([weight.float() for weight, _ in pairs]), torch.stack([scales[:, 0] for _, scales in pairs])
    weight = kernels.in_product_order(narrow.to(torch.float8_e4m3fn))
    assert torch.equal(weight.float(), formats.in_product_order(narrow))
    ids, bias = chosen(2, tokens, num_experts, count), random(3, num_experts, rows)
    x, out = random(4, tokens, cols, dtype=torch.bfloat16), poisoned(tokens, count, rows, dtype=torch.bfloat16)
    kernels.grouped_linear(out, x, kernels.sort_experts(ids, num_experts, tile_rows), weight, bias, scales)
    expected = torch.empty(tokens, count, rows, dtype=torch.float64, device=DEVICE)
    reference.grouped_linear(expected, x.double(), ids, narrow.double(), bias.double(), scales.double())
    assert_near(out, expected, 2 * ULP[torch.bfloat16])
    alone = poisoned(1, count, rows, dtype=torch.bfloat16)
    kernels.grouped_linear(alone, x[-1:], kernels.sort_experts(ids[-1:], num_experts, 16), weight, bias, scales)
    assert torch.equal(alone[0], out[-1])


@dtypes
def test_weights_that_no_row_chose_and_rows_of_no_expert_are_not_read(dtype):
    weight, ids = random(1, 4, 24, 72, dtype=dtype), int_tensor([[3], [0], [-1], [1]])
    weight[2] = float("nan")
    x, out = random(2, 4, 72, dtype=dtype), poisoned(4, 1, 24, dtype=dtype)
    x[2] = float("nan")
    kernels.grouped_linear(out, x, kernels.sort_experts(ids, 4, 16), weight)
    expected = torch.full((4, 1, 24), float("nan"), dtype=torch.float64, device=DEVICE)
    reference.grouped_linear(expected, x.double(), ids, weight.double())
    assert_near(out[[0, 1, 3]], expected[[0, 1, 3]], 2 * ULP[dtype])
    assert out[2].isnan().all()  # as it was
    assert expected[2].isnan().all()


@dtypes
@pytest.mark.parametrize(("tokens", "count", "width"), [(0, 2, 64), (1, 1, 8), (3, 4, 1032), (2, 8, 2048)])
@pytest.mark.parametrize("beside", ["", "shared", "gated"])
def test_combine_experts(dtype, tokens, count, width, beside):
    x, weights = random(1, tokens, count, width, dtype=dtype), random(2, tokens, count).abs()
    shared = strided(random(3, tokens, width, dtype=dtype)) if beside else None
    gate = random(4, tokens, 1) if beside == "gated" else None
    out, expected = poisoned(tokens, width, dtype=dtype), torch.empty(tokens, width, dtype=torch.float64, device=DEVICE)
    kernels.combine_experts(out, x, weights, shared, gate)
    wide = [None if value is None else value.double() for value in (shared, gate)]
    reference.combine_experts(expected, x.double(), weights.double(), *wide)
    assert_near(out, expected, 2 * ULP[dtype])
    if tokens > 1:
        alone = poisoned(1, width, dtype=dtype)
        last = (x[-1:], weights[-1:], *(None if value is None else value[-1:] for value in (shared, gate)))
        kernels.combine_experts(alone, *last)
        assert torch.equal(alone[0], out[-1])


@dtypes
@pytest.mark.parametrize("alpha", [1.702, 0.5])
def test_clamped_gates(dtype, alpha):
    gate_up = strided(random(1, 3, 2 * 264, dtype=dtype, scale=6.0))
    out, expected = poisoned(3, 264, dtype=dtype), torch.empty(3, 264, dtype=torch.float64, device=DEVICE)
    kernels.gated_activation(out, gate_up, "silu", None, 7.0, alpha)
    operations.gated_activation(expected, gate_up.double(), "silu", None, 7.0, alpha)
    assert_near(out, expected, 2 * ULP[dtype])
    gate_up[1] = float("nan")
    kernels.gated_activation(out, gate_up, "silu", None, 7.0, alpha)
    assert out[1].isnan().all()


def test_what_does_not_fit_is_refused_by_name():
    ids, weight = int_tensor([[0, 1], [1, 2]]), random(1, 4, 16, 24, dtype=torch.bfloat16)
    planned = kernels.sort_experts(ids, 4, 16)
    x, out = random(2, 2, 24, dtype=torch.bfloat16), poisoned(2, 2, 16, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"out: expected \[tokens, chosen, 16\], got \[2, 2, 24\]"):
        kernels.grouped_linear(poisoned(2, 2, 24, dtype=torch.bfloat16), x, planned, weight)
    with pytest.raises(ValueError, match=r"x: expected \[2, 24\], got \[2, 32\]"):
        kernels.grouped_linear(out, random(2, 2, 32, dtype=torch.bfloat16), planned, weight)
    with pytest.raises(ValueError, match="weight's rows: expected a multiple of 8"):
        kernels.grouped_linear(poisoned(2, 2, 8, dtype=torch.bfloat16)[:, :, :4], x, planned, weight[:, :4].contiguous())
    with pytest.raises(ValueError, match="tile_rows: expected 16 or 64, got 32"):
        kernels.sort_experts(ids, 4, 32)
    with pytest.raises(ValueError, match=r"chosen: expected a multiple of 1 up to 2, got 3"):
        kernels.router(poisoned(1, 3, dtype=torch.int32), random(1, 1, 3), random(1, 1, 2), False, int_tensor([0]))
