"""Paged attention against its definition: mixed decodes and prefill chunks, grouped heads, windows, any head and block size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from paged_cases import PagedCase
from shapes import examples, head_dims, random, seeds

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference

TOLERANCE = {"rtol": 1e-5, "atol": 5e-6}


@st.composite
def cases(draw) -> tuple[PagedCase, list[tuple[int, int, int]]]:
    contexts = draw(st.lists(st.integers(1, 100), min_size=0, max_size=5))
    kv_heads = draw(st.integers(1, 3))
    case = PagedCase(
        contexts=contexts,
        heads=kv_heads * draw(st.sampled_from([1, 2, 3, 4, 7])),
        kv_heads=kv_heads,
        head_dim=draw(head_dims),
        block_size=draw(st.sampled_from([1, 7, 16, 32, 128])),
        dtype=draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int8])),
        window=draw(st.just(0) | st.integers(1, 110)),
        seed=draw(seeds),
    )
    new_tokens = [draw(st.sampled_from([0, 1, context]) | st.integers(0, context)) for context in contexts]
    return case, [(s, contexts[s] - new, contexts[s]) for s, new in enumerate(new_tokens)]


@examples
@given(case=cases())
def test_attention(isa, case):
    paged, chunks = case
    torch.testing.assert_close(paged.attend(chunks), paged.attend(chunks, reference.paged_attention), **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_long_context_and_large_scores(isa, dtype):
    paged = PagedCase([3000, 1025], dtype=dtype, block_size=16)
    paged.queries = [query * 30 for query in paged.queries]  # softmax close to a maximum
    chunks = [(0, 2990, 3000), (1, 1024, 1025)]
    torch.testing.assert_close(paged.attend(chunks), paged.attend(chunks, reference.paged_attention), rtol=1e-4, atol=1e-4)


def test_q_and_out_may_be_views(isa):
    paged = PagedCase([40, 9], heads=6, kv_heads=3)
    chunks = [(0, 20, 40), (1, 8, 9)]
    q, *rest = paged.arguments(chunks)
    fused = random(5, q.shape[0], 12, 64)
    fused[:, :6] = q
    out = torch.full((q.shape[0], 8, 70), float("nan"))
    kernels.paged_attention(out[:, 1:7, 3:67], fused[:, :6], *rest)
    assert torch.equal(out[:, 1:7, 3:67], paged.attend(chunks))
    out[:, 1:7, 3:67] = float("nan")
    assert out.isnan().all()


def test_blocks_before_the_window_may_be_gone(isa):
    """A window frees the blocks that slid out of it: their table entries mean nothing any more."""
    paged = PagedCase([100], block_size=16, window=20)
    expected = paged.attend([(0, 90, 100)])
    paged.block_tables[0, : (90 - 19) // 16] = -1
    assert torch.equal(paged.attend([(0, 90, 100)]), expected)


def test_int8_is_close_to_what_was_stored(isa):
    """Each K and V is off by at most half a step, 1/254 of its slot's largest value."""
    stored, exact = (PagedCase([200, 33], head_dim=80, dtype=dtype) for dtype in (torch.int8, torch.float32))
    chunks = [(0, 190, 200), (1, 32, 33)]
    found, expected = stored.attend(chunks), exact.attend(chunks, reference.paged_attention)
    off = (found - expected).abs()
    assert 1e-4 < off.max() < 0.03, "of values that are 1 on average"
    assert off.mean() < 0.004


def test_infinite_key_hides_only_what_it_touches(isa):
    """A value that overflowed at a later position must not reach the rows before it."""
    paged = PagedCase([40], heads=2, kv_heads=2)
    expected = paged.attend([(0, 0, 40)])
    block, offset = paged.block_tables[0, 20 // 16], 20 % 16
    paged.v_cache[block, :, offset] = float("inf")
    arguments = paged.arguments([(0, 0, 40)])
    out = torch.empty_like(arguments[0])
    kernels.paged_attention(out, *arguments)
    assert torch.equal(out[:20], expected[:20])
    assert not out[20:].isfinite().any()
