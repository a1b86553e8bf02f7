"""Random arguments for kernel tests: hypothesis draws shapes and a seed, torch fills them."""

import os

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# The sanitizer run takes fewer examples; everything is many times slower there.
examples = settings(
    max_examples=int(os.environ.get("PAGECLI_TEST_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
)

seeds = st.integers(0, 2**31 - 1)
num_tokens = st.integers(0, 40)
row_sizes = st.integers(1, 70) | st.sampled_from([128, 576, 768, 1000])
head_dims = st.sampled_from([32, 33, 40, 64, 80, 96, 100, 128, 256])


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_all_sizes(seed: int, rows: int, cols: int) -> torch.Tensor:
    """Numbers of every exponent that a float has, and zeros of either sign."""
    generator = np.random.Generator(np.random.PCG64(seed))
    bits = generator.integers(0, 2**32, (rows, cols), dtype=np.uint32)
    values = bits.view(np.float32)
    values[~np.isfinite(values) | (np.abs(values) > 1e15)] = 0.0
    values[generator.random((rows, cols)) < 0.1] = -0.0
    return torch.from_numpy(values)


def strided(values: torch.Tensor, before: int = 3, after: int = 5) -> torch.Tensor:
    """`values` as a view whose rows lie apart in a buffer of NaN, as heads do in a fused qkv buffer."""
    buffer = torch.full((*values.shape[:-1], before + values.shape[-1] + after), float("nan"))
    view = buffer[..., before : before + values.shape[-1]]
    view.copy_(values)
    return view


def gaps(view: torch.Tensor) -> torch.Tensor:
    """What lies between the rows of a `strided` view: all NaN unless a kernel wrote there."""
    buffer = view._base
    assert buffer is not None
    first = view.storage_offset()
    return torch.cat([buffer[..., :first].flatten(), buffer[..., first + view.shape[-1] :].flatten()])
