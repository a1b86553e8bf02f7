"""Logits are products in float32: those of 16-bit models are not rounded to 16 bits before a token is chosen."""

import pytest
import torch
from gpu_tensors import DEVICE, assert_near, random
from torch._subclasses import FakeTensorMode

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.linear import logits


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_logits_are_as_exact_as_float32(dtype):
    x, head = random(1, 5, 64, dtype=dtype), random(2, 33, 64, dtype=dtype)
    out = torch.full((5, 33), float("nan"), device=DEVICE)
    logits(out, x, head)
    assert_near(out, x.double() @ head.double().t(), 1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_likelier_of_two_tokens_is_chosen_where_16_bits_know_no_difference(dtype):
    """24 and 24 + 1/256: a bfloat16 between 16 and 32 is a multiple of 1/8, a float16 of 1/64."""
    x, head = torch.ones(1, 16, dtype=dtype), torch.zeros(4, 16, dtype=dtype)
    head[1:3, :3], head[2, 3] = 8.0, 2**-8
    out, chosen = torch.empty(1, 4, device=DEVICE), torch.empty(1, dtype=torch.int64, device=DEVICE)
    logits(out, x.to(DEVICE), head.to(DEVICE))
    kernels.argmax(chosen, out)
    assert out[0, 2] - out[0, 1] == 2**-8
    assert chosen.item() == 2


def test_the_product_exists_for_gpus():
    """Shapes and types alone are computed: this torch needs no GPU for that."""
    with FakeTensorMode():
        x, head = (torch.empty(rows, 16, dtype=torch.bfloat16, device="cuda") for rows in (3, 10))
        out = torch.empty(3, 10, device="cuda")
        logits(out, x, head)
        assert (out.shape, out.dtype, out.device.type) == ((3, 10), torch.float32, "cuda")
