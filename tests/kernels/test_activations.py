"""relu, gelu, gelu_tanh, silu and relu2, plain and gated: against torch in double precision, over the whole range of float."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, num_tokens, random, row_sizes, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference

NAMES = ["relu", "gelu", "gelu_tanh", "silu", "relu2"]
# 1 + erf(x) and 1 + tanh(x) cancel for negative x, in torch's float kernels too: what is left of the error is absolute.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.mark.parametrize("name", NAMES)
@examples
@given(seed=seeds, tokens=num_tokens, dim=row_sizes)
def test_activation(isa, name, seed, tokens, dim):
    x = strided(random(seed, tokens, dim) * 3)
    out, expected = strided(torch.full((tokens, dim), float("nan"))), torch.empty(tokens, dim, dtype=torch.float64)
    kernels.activation(out, x, name)
    reference.activation(expected, x.double(), name)
    torch.testing.assert_close(out.double(), expected, **TOLERANCE)
    assert gaps(out).isnan().all()


@pytest.mark.parametrize("name", NAMES)
@examples
@given(seed=seeds, tokens=num_tokens, dim=row_sizes)
def test_gated_activation(isa, name, seed, tokens, dim):
    gate_up = strided(random(seed, tokens, 2 * dim) * 3)
    out, expected = strided(torch.full((tokens, dim), float("nan"))), torch.empty(tokens, dim, dtype=torch.float64)
    kernels.gated_activation(out, gate_up, name)
    reference.gated_activation(expected, gate_up.double(), name)
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=1e-5)  # the error times `up`, up to about 12
    assert gaps(out).isnan().all()


@examples
@given(seed=seeds, tokens=num_tokens, groups=st.integers(1, 4), dim=row_sizes, limit=st.sampled_from([0.0, 0.5, 7.0]))
def test_gated_activation_of_groups_side_by_side_clamped_or_not(isa, seed, tokens, groups, dim, limit):
    gate_up = strided(random(seed, tokens, groups, 2 * dim) * 3)
    out, expected = (
        strided(torch.full((tokens, groups, dim), float("nan"))),
        torch.empty(tokens, groups, dim, dtype=torch.float64),
    )
    kernels.gated_activation(out, gate_up, "silu", limit, 1.702)
    reference.gated_activation(expected, gate_up.double(), "silu", None, limit, 1.702)
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=1e-5)
    assert gaps(out).isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_whole_range(isa, name):
    size = torch.logspace(-30, 38, 5001, dtype=torch.float64).float()
    x = torch.cat([-size.flip(0), torch.zeros(1), size, torch.linspace(-20, 20, 20001)])[None]
    out, expected = torch.empty_like(x), torch.empty(x.shape, dtype=torch.float64)
    kernels.activation(out, x, name)
    reference.activation(expected, x.double(), name)
    torch.testing.assert_close(out, expected.float(), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_not_a_number_stays_one(isa, name):
    x = torch.zeros(1, 21)
    x[0, ::5] = float("nan")
    kernels.activation(x, x, name)
    assert torch.equal(x.isnan().nonzero()[:, 1], torch.arange(0, 21, 5))
