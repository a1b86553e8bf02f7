"""Linear layers in 8-bit floats: rows are rounded as torch rounds them, the product is that of the rounded operands, and a
model in them is near the one it was made from."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gpu_tensors import DEVICE, DTYPES, assert_near, poisoned, random, strided
from model.paged_steps import PagedSteps

from pagecli.devices.base import KVCache, load_model
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model import fused, linear, model
from pagecli.devices.cuda.model.linear import CudaFloat8Linear, float8_linear
from pagecli.devices.reference import operations as reference
from pagecli.errors import UsageError
from pagecli.model import program
from pagecli.model.registry import resolve_model

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "dim"), [(0, 64), (1, 16), (3, 272), (2, 5120)])
def test_rows_are_rounded_each_with_its_scale(dtype, tokens, dim):
    x = strided(random(1, tokens, dim, dtype=dtype, scale=3.0))
    out, scales = poisoned(tokens, dim, dtype=torch.float32).to(torch.float8_e4m3fn), poisoned(tokens, 1, dtype=torch.float32)
    kernels.quantize_rows(out, scales, x)
    expected, expected_scales = torch.empty_like(out), torch.empty_like(scales)
    reference.quantize_rows(expected, expected_scales, x)
    assert_near(448 * scales, 448 * expected_scales, 1e-6)
    assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8))


NORMS = [("rms_norm", False), ("rms_norm", True), ("layer_norm", False), ("layer_norm", True)]


def assert_rounded_alike(compute, tokens: int, dim: int, dtype: torch.dtype, **tensors: torch.Tensor) -> None:
    """compute(out, scales, **tensors) in 8-bit floats writes, to the bit, what `quantize_rows` makes of what it writes else,
    and does the same to its arguments."""
    others = {name: tensor.clone() for name, tensor in tensors.items()}
    wide, scales = poisoned(tokens, dim, dtype=dtype), poisoned(tokens, 1, dtype=torch.float32)
    out = poisoned(tokens, dim, dtype=torch.float32).to(torch.float8_e4m3fn)
    expected, expected_scales = torch.empty_like(out), torch.empty_like(scales)
    compute(wide, None, **tensors)
    kernels.quantize_rows(expected, expected_scales, wide)
    compute(out, scales, **others)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8))
    assert all(torch.equal(others[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "with_added"), NORMS)
@pytest.mark.parametrize(("tokens", "dim"), [(0, 64), (1, 16), (3, 272), (2, 5120), (2, 8208)])
def test_norms_round_their_rows(dtype, name, with_added, tokens, dim):
    x, weight, bias = (random(n, *shape, scale=3.0) for n, shape in enumerate(((tokens, dim), (dim,), (dim,))))
    parameters = (weight, 1e-5) if name == "rms_norm" else (weight, bias, 1e-5)
    more = {"added": random(3, tokens, dim, dtype=dtype)} if with_added else {}

    def compute(out, scales, x, added=None):
        getattr(kernels, name)(out, x, *parameters, added, scales)

    assert_rounded_alike(compute, tokens, dim, dtype, x=x.to(dtype), **more)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("limit", [0.0, 7.0])
@pytest.mark.parametrize(("tokens", "dim"), [(0, 64), (1, 16), (3, 272), (2, 8208)])
def test_activations_round_their_rows(dtype, limit, tokens, dim):
    bias = random(4, 2 * dim)

    def gated(out, scales, x):
        kernels.gated_activation(out, x, "silu", bias, limit, 1.7, scales)

    def plain(out, scales, x):
        kernels.activation(out, x, "gelu" if limit else "relu", bias[:dim].contiguous(), scales)

    assert_rounded_alike(gated, tokens, dim, dtype, x=random(5, tokens, 2 * dim, dtype=dtype, scale=4.0))
    assert_rounded_alike(plain, tokens, dim, dtype, x=random(6, tokens, dim, dtype=dtype, scale=4.0))


def test_room_for_rounded_rows_is_checked():
    x, weight = random(7, 2, 64, dtype=torch.bfloat16), random(8, 64)
    out, scales = linear.float8_room((2, 64), DEVICE)
    with pytest.raises(TypeError, match="out: expected uint8, got bfloat16"):
        kernels.rms_norm(torch.empty_like(x), x, weight, 1e-5, scales=scales)
    with pytest.raises(ValueError, match=r"scales: expected \[2, 1\], got \[1, 1\]"):
        kernels.activation(out, x, "relu", scales=scales[:1])
    with pytest.raises(ValueError, match="scales: expected bfloat16 or float16 beside them, got float32"):
        kernels.gated_activation(out, random(9, 2, 128), "silu", scales=scales)
    with pytest.raises(ValueError, match="scales: expected none beside heads"):
        kernels.rms_norm(out, x.view(2, 4, 16), weight[:16].contiguous(), 1e-5, scales=scales)


def test_rows_of_zeros_and_of_no_numbers():
    x = torch.zeros(3, 16, dtype=torch.bfloat16, device=DEVICE)
    x[1, 3], x[2, 5] = float("inf"), float("nan")
    out, scales = torch.ones(3, 16, device=DEVICE).to(torch.float8_e4m3fn), poisoned(3, 1, dtype=torch.float32)
    kernels.quantize_rows(out, scales, x)
    assert not out[0].float().any()
    assert scales[0] == 1
    assert not (out[1].float() * scales[1]).isfinite().all()  # an overflow stays one
    assert out[2, 5].float().isnan()


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_product_is_that_of_the_rounded_operands(with_bias):
    weight, x = random(2, 48, 320, scale=0.02), random(3, 7, 320, dtype=torch.bfloat16, scale=2.0)
    weight[5] *= 100  # a channel's own scale keeps it from the others
    weight[6] = 0
    bias = random(4, 48, dtype=torch.bfloat16) if with_bias else None
    layer = float8_linear(weight, bias)
    assert isinstance(layer, CudaFloat8Linear)
    assert layer.num_bytes == 48 * 320 + 48 * 4 + (0 if bias is None else bias.nbytes)
    rounded = layer.weight.double() * layer.scales.double().t()
    assert ((rounded - weight).norm(dim=1) <= 0.03 * weight.double().norm(dim=1)).all()
    narrow, scales = torch.empty(7, 320, dtype=torch.float8_e4m3fn, device=DEVICE), torch.empty(7, 1, device=DEVICE)
    kernels.quantize_rows(narrow, scales, x)
    expected = (narrow.double() * scales) @ rounded.t() + (0 if bias is None else bias.double())
    out = layer(x)
    assert out.dtype == torch.bfloat16
    assert_near(out, expected, 2**-7)


@pytest.mark.parametrize("name", ["opt", "llama", "qwen3"])
def test_a_models_bits_are_those_of_rows_rounded_apart(tiny_model, monkeypatch, name):
    """Of all layers' products, rows of attention's output alone are rounded by a launch of their own."""
    source = resolve_model(str(tiny_model(name)))
    counted: list[int] = []
    quantize = kernels.quantize_rows

    def logits(together: bool) -> torch.Tensor:
        if not together:
            monkeypatch.setattr(model, "with_float8", lambda operations, has_float8: operations)
        loaded = load_model(source, "fp8", 64, "cuda")
        counted.clear()
        steps = PagedSteps(loaded, torch.bfloat16)
        steps.kv = KVCache(*([v.to(DEVICE, copy=True) for v in steps.kv.values] for _ in range(2)))
        return torch.cat([*steps.step({0: [5, 6, 7], 1: [8]}).values(), *steps.step({0: [9], 1: [10]}).values()])

    monkeypatch.setattr(kernels, "quantize_rows", lambda *tensors: (counted.append(1), quantize(*tensors)))
    with torch.inference_mode():
        found = logits(together=True)
        fused_launches, layers = len(counted), source.config.num_layers
        assert torch.equal(found, logits(together=False))
    assert (fused_launches, len(counted)) == (2 * layers, 2 * 4 * layers)


def test_what_others_read_too_is_not_rounded():
    weight, eps = program.Weight(("w",), (64,), 64), 1e-5
    norm = program.Norm("normed", "hidden", "rms", eps, None)
    product, router = program.Linear("qkv", "normed", weight), program.Linear("routes", "normed", weight)
    gate = program.GatedActivation("inner", "qkv", "silu")
    down, update = program.Linear("out", "inner", weight), program.LowRank("qkv", "normed", 0, 64, *(np.zeros(1),) * 3)

    def marked(*operations, float8=(product, down)):
        found = fused.with_float8(list(operations), lambda linear: any(linear is each for each in float8))
        return [isinstance(operation, fused.InFloat8) for operation in found]

    assert marked(norm, product, gate, down) == [True, False, True, False]
    assert marked(fused.AddNorm(norm, "more"), product) == [True, False]
    assert marked(norm, product, router) == [False, False, False]
    assert marked(norm, product, update) == [False, False, False]
    assert marked(norm, product, norm, router) == [True, False, False, False]  # the second value of that name
    assert marked(replace(norm, out="hidden"), replace(product, x="hidden"), float8=()) == [False, False]
    assert marked(replace(gate, groups=2), down) == [False, False]
    assert marked(norm) == [False]  # nobody reads it
    assert marked(replace(product, activation="relu", out="inner"), down) == [True, False]


def test_a_gpu_that_cannot_is_refused():
    with pytest.raises(UsageError, match=r"^--dtype fp8: NVIDIA A100 \(compute capability 8\.0\) has no products of 8-bit"):
        linear.check_multiplies_float8(SimpleNamespace(name="NVIDIA A100", capability=(8, 0)))
    linear.check_multiplies_float8(SimpleNamespace(name="NVIDIA H200", capability=(9, 0)))
