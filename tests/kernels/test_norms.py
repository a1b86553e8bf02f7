"""RMSNorm and LayerNorm against their definitions: any row size, 2 or 3 dimensions, any stride, in place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, num_tokens, random, row_sizes, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference

TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}


@examples
@given(seed=seeds, tokens=num_tokens, heads=st.integers(0, 5), dim=row_sizes, eps=st.sampled_from([1e-5, 1e-6]))
def test_rms_norm(isa, seed, tokens, heads, dim, eps):
    shape = (tokens, heads, dim) if heads else (tokens, dim)
    x, weight = strided(random(seed, *shape)), random(seed + 1, dim)
    out, expected = strided(torch.full(shape, float("nan"))), torch.empty(shape)
    kernels.rms_norm(out, x, weight, eps)
    reference.rms_norm(expected, x, weight, eps)
    torch.testing.assert_close(out, expected, **TOLERANCE)
    assert gaps(out).isnan().all()


@examples
@given(seed=seeds, tokens=num_tokens, dim=row_sizes, mean=st.sampled_from([0.0, 1.0, 100.0]))
def test_layer_norm(isa, seed, tokens, dim, mean):
    x, weight, bias = strided(random(seed, tokens, dim) + mean), random(seed + 1, dim), random(seed + 2, dim)
    out, expected = strided(torch.full((tokens, dim), float("nan"))), torch.empty(tokens, dim, dtype=torch.float64)
    kernels.layer_norm(out, x, weight, bias, 1e-5)
    reference.layer_norm(expected, x.double(), weight.double(), bias.double(), 1e-5)
    # The rounding of the mean, about 1e-7 of the largest number, is divided by the row's standard deviation.
    deviation = (x.double().var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    tolerance = 5e-6 + 1e-6 * x.double().abs().amax(-1, keepdim=True) / deviation
    assert ((out.double() - expected).abs() <= tolerance + 5e-6 * expected.abs()).all()
    assert gaps(out).isnan().all()


@pytest.mark.parametrize("operation", ["rms_norm", "layer_norm"])
def test_out_may_be_x(isa, operation):
    x, weight, bias = random(0, 9, 100), random(1, 100), random(2, 100)
    parameters = (weight, 1e-5) if operation == "rms_norm" else (weight, bias, 1e-5)
    expected = torch.empty_like(x)
    getattr(kernels, operation)(expected, x, *parameters)
    getattr(kernels, operation)(x, x, *parameters)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("operation", ["rms_norm", "layer_norm"])
def test_a_row_does_not_depend_on_the_others(isa, operation):
    x, weight, bias = random(0, 300, 768), random(1, 768), random(2, 768)
    parameters = (weight, 1e-5) if operation == "rms_norm" else (weight, bias, 1e-5)
    together, alone = torch.empty_like(x), torch.empty(1, 768)
    getattr(kernels, operation)(together, x, *parameters)
    for row in (0, 77, 299):
        getattr(kernels, operation)(alone, x[row : row + 1], *parameters)
        assert torch.equal(alone[0], together[row])
