"""CUDA kernels on rows against their definitions in float64: norms, activations, embedding, argmax."""

import pytest
import torch
from gpu_tensors import DEVICE, DTYPES, ULP, assert_near, gaps_are_untouched, int_tensor, poisoned, random, strided

from pagecli.devices.cuda import kernels
from pagecli.devices.reference import operations as reference

pytestmark = pytest.mark.cuda
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize(("tokens", "dim"), [(0, 64), (1, 8), (3, 264), (2, 768), (1, 5120), (2, 8200)])
@pytest.mark.parametrize("with_added", [False, True])
def test_rms_norm(dtype, tokens, dim, with_added):
    x, weight = strided(random(1, tokens, dim, dtype=dtype)), random(2, dim)
    added = random(3, tokens, dim, dtype=dtype) if with_added else None
    summed = x if added is None else (x.float() + added.float()).to(dtype)
    expected, out = torch.empty(tokens, dim, dtype=torch.float64, device=DEVICE), poisoned(tokens, dim, dtype=dtype)
    reference.rms_norm(expected, summed.double(), weight.double(), 1e-5)
    kernels.rms_norm(out, x, weight, 1e-5, added)
    assert_near(out, expected, 2 * ULP[dtype])
    assert torch.equal(x, summed)
    assert gaps_are_untouched(x)


@dtypes
def test_rms_norm_of_heads_in_place(dtype):
    heads, weight = strided(random(4, 5, 3, 128, dtype=dtype)), random(5, 128)
    expected = torch.empty(5, 3, 128, dtype=torch.float64, device=DEVICE)
    reference.rms_norm(expected, heads.double(), weight.double(), 1e-6)
    kernels.rms_norm(heads, heads, weight, 1e-6)
    assert_near(heads, expected, 2 * ULP[dtype])
    assert gaps_are_untouched(heads)


@dtypes
@pytest.mark.parametrize(("tokens", "dim"), [(1, 8), (3, 512), (2, 4096)])
@pytest.mark.parametrize("with_added", [False, True])
def test_layer_norm(dtype, tokens, dim, with_added):
    x, weight, bias = random(6, tokens, dim, dtype=dtype) + 3, random(7, dim), random(8, dim)
    added = random(9, tokens, dim, dtype=dtype) if with_added else None
    summed = x if added is None else (x.float() + added.float()).to(dtype)
    expected, out = torch.empty(tokens, dim, dtype=torch.float64, device=DEVICE), poisoned(tokens, dim, dtype=dtype)
    reference.layer_norm(expected, summed.double(), weight.double(), bias.double(), 1e-5)
    kernels.layer_norm(out, x, weight, bias, 1e-5, added)
    assert_near(out, expected, 2 * ULP[dtype])


@dtypes
@pytest.mark.parametrize("name", ["none", "relu", "gelu", "gelu_tanh", "silu", "relu2"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_activations(dtype, name, with_bias):
    gate_up = strided(random(10, 3, 2 * 2056, dtype=dtype, scale=3.0))
    bias = random(11, 2 * 2056) if with_bias else None
    wide_bias = None if bias is None else bias.double()
    expected, out = torch.empty(3, 2056, dtype=torch.float64, device=DEVICE), poisoned(3, 2056, dtype=dtype)
    reference.gated_activation(expected, gate_up.double(), name, wide_bias)
    kernels.gated_activation(out, gate_up, name, bias)
    assert_near(out, expected, 2 * ULP[dtype])
    wide, out = torch.empty(3, 4112, dtype=torch.float64, device=DEVICE), poisoned(3, 4112, dtype=dtype)
    reference.activation(wide, gate_up.double(), name, wide_bias)
    kernels.activation(out, gate_up, name, bias)
    assert_near(out, wide, 2 * ULP[dtype])


@dtypes
@pytest.mark.parametrize("name", ["none", "relu"])
def test_activations_hide_no_nan_and_no_infinity(dtype, name):
    x = torch.tensor([[float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1.0, 2.0, -0.0]], dtype=dtype, device=DEVICE)
    out = torch.zeros_like(x)
    kernels.activation(out, x, name)
    expected = torch.empty_like(x)
    reference.activation(expected, x, name)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(), expected.nan_to_num())


@dtypes
def test_embedding_with_positions(dtype):
    weight, table = random(12, 11, 1032, dtype=dtype), random(13, 9, 1032, dtype=dtype)
    ids, positions = int_tensor([10, 0, -1, 3]), int_tensor([0, 6, 2, 1])
    out = poisoned(4, 1032, dtype=dtype)
    kernels.embedding(out, ids, weight)
    assert torch.equal(out[[0, 1, 3]], weight[[10, 0, 3]])
    assert not out[2].any()
    kernels.embedding(out, ids, weight, positions, table, 2)
    expected = torch.empty(4, 1032, dtype=torch.float64, device=DEVICE)
    reference.embedding(expected, ids, weight, positions, table, 2)
    assert_near(out, expected, 2 * ULP[dtype])
    assert not out[2].any()


@pytest.mark.parametrize("cols", [1, 31, 512, 5027])
def test_argmax_takes_the_first_of_equal_ones(cols):
    x = random(14, 6, cols, scale=4.0).round()  # many ties
    x[1] = float("-inf")
    x[2] = x[2].abs().neg()
    expected, out = torch.empty(6, dtype=torch.int64, device=DEVICE), poisoned(6, dtype=torch.int64)
    reference.argmax(expected, x)
    kernels.argmax(out, x)
    assert torch.equal(out, expected)


def test_arguments_are_checked_by_name():
    x = random(15, 2, 64, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="out: expected \\[2, 64\\], got \\[3, 64\\]"):
        kernels.rms_norm(poisoned(3, 64, dtype=torch.bfloat16), x, random(1, 64), 1e-5)
    with pytest.raises(ValueError, match="x's last dimension: expected a multiple of 8"):
        kernels.rms_norm(poisoned(2, 4, dtype=torch.float32), random(1, 2, 4), random(1, 4), 1e-5)
    with pytest.raises(ValueError, match="x: expected rows that begin at multiples of 16 bytes"):
        kernels.rms_norm(x[:, :8], random(1, 2, 65)[:, 1:9], random(1, 8), 1e-5)
    with pytest.raises(TypeError, match="weight: expected float32, got bfloat16"):
        kernels.rms_norm(x, x, x[0], 1e-5)
