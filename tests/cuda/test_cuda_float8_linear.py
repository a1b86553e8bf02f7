"""Linear layers in 8-bit floats: rows are rounded as torch rounds them, the product is that of the rounded operands, and a
model in them is near the one it was made from."""

from types import SimpleNamespace

import pytest
import torch
from gpu_tensors import DEVICE, DTYPES, assert_near, poisoned, random, strided

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model import linear
from pagecli.devices.cuda.model.linear import CudaFloat8Linear, float8_linear
from pagecli.devices.reference import operations as reference
from pagecli.errors import UsageError

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


def test_a_gpu_that_cannot_is_refused():
    with pytest.raises(UsageError, match=r"^--dtype fp8: NVIDIA A100 \(compute capability 8\.0\) has no products of 8-bit"):
        linear.check_multiplies_float8(SimpleNamespace(name="NVIDIA A100", capability=(8, 0)))
    linear.check_multiplies_float8(SimpleNamespace(name="NVIDIA H200", capability=(9, 0)))
