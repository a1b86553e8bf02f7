"""Optional arguments of norms and rotations: a norm that is added to its output, one rotary table of several side by side."""

import pytest
import torch

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_norm_replaces_its_output_or_is_added_to_it(accumulate):
    x, weight, out = rows(0, 5, 48), rows(1, 48), rows(2, 5, 48)
    expected = out.clone()
    operations.rms_norm(expected, x, weight, 1e-5, accumulate=accumulate)
    kernels.rms_norm(out, x, weight, 1e-5, accumulate=accumulate)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("first", "dims"), [(0, 0), (0, 16), (16, 16), (16, 8)])
def test_a_rotation_takes_its_own_table_of_several(first, dims):
    q, k, angles = rows(0, 4, 2, 32), rows(1, 4, 1, 32), rows(2, 9, 16)
    positions, tables = (
        torch.tensor([0, 3, 8, 5], dtype=torch.int32),
        torch.cat([angles.cos(), angles.sin()], dim=1).contiguous(),
    )
    expected = q.clone(), k.clone()
    operations.rotary_embedding(*expected, positions, tables, first, dims)
    kernels.rotary_embedding(q, k, positions, tables, first, dims)
    torch.testing.assert_close((q, k), expected, rtol=1e-5, atol=1e-5)
