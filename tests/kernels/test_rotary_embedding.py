"""Rotary embedding of q and k, views into one fused buffer, in place."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, head_dims, num_tokens, random, seeds

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference


@examples
@given(seed=seeds, tokens=num_tokens, heads=st.integers(1, 6), kv_heads=st.integers(1, 3), head_dim=head_dims, data=st.data())
def test_fused_buffer(isa, seed, tokens, heads, kv_heads, head_dim, data):
    rotary_dim = 2 * data.draw(st.integers(1, head_dim // 2), label="rotary_dim / 2")
    fused = random(seed, tokens, (heads + 2 * kv_heads) * head_dim)
    before = fused.clone()
    q_end, k_end = heads * head_dim, (heads + kv_heads) * head_dim
    angles = random(seed + 1, 50, rotary_dim // 2)
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)
    positions = torch.randint(0, 50, (tokens,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)

    expected = fused.clone()
    for operation, buffer in ((kernels, fused), (reference, expected)):
        q = buffer[:, :q_end].unflatten(1, (heads, head_dim))
        k = buffer[:, q_end:k_end].unflatten(1, (kv_heads, head_dim))
        operation.rotary_embedding(q, k, positions, cos_sin)

    torch.testing.assert_close(fused, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(fused[:, k_end:], before[:, k_end:])  # v stays
    assert torch.equal(fused[:, rotary_dim:head_dim], before[:, rotary_dim:head_dim])  # so do dimensions beyond rotary_dim
