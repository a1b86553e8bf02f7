"""store_kv: every k and v in its slot, nothing else touched, bfloat16 rounded as torch rounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, head_dims, num_tokens, random, seeds

from pagecli.kernels import native, reference

DTYPES = [torch.float32, torch.bfloat16]


@examples
@given(
    seed=seeds,
    tokens=num_tokens,
    kv_heads=st.integers(1, 3),
    head_dim=head_dims,
    block_size=st.sampled_from([1, 7, 16]),
    dtype=st.sampled_from(DTYPES),
)
def test_store(isa, seed, tokens, kv_heads, head_dim, block_size, dtype):
    num_blocks = tokens // block_size + 2
    slot_ids = torch.randperm(num_blocks * block_size, generator=torch.Generator().manual_seed(seed))[:tokens]
    fused = random(seed, tokens, 3, kv_heads, head_dim)  # q, k, v side by side
    caches = [torch.full((num_blocks, kv_heads, block_size, head_dim), float("nan"), dtype=dtype) for _ in range(4)]
    native.store_kv(caches[0], caches[1], fused[:, 1], fused[:, 2], slot_ids)
    reference.store_kv(caches[2], caches[3], fused[:, 1], fused[:, 2], slot_ids)
    for stored, expected in zip(caches[:2], caches[2:], strict=True):
        torch.testing.assert_close(stored, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values_survive(isa, dtype):
    values = torch.tensor(
        [0.0, -0.0, 1e-40, -3e38, 3.4e38, float("inf"), -float("inf"), float("nan"), 1 + 2**-8, 1 + 3 * 2**-8]
    )
    k = values.repeat(4)[None, None]
    caches = [torch.zeros(1, 1, 1, 40, dtype=dtype) for _ in range(2)]
    native.store_kv(*caches, k, -k, torch.tensor([0]))
    torch.testing.assert_close(caches[0].flatten(), k.to(dtype).flatten(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(caches[1].flatten(), (-k).to(dtype).flatten(), rtol=0, atol=0, equal_nan=True)
