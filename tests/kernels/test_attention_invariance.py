"""Same row, same bits: attention must not depend on batch, chunking of the prefill, block size or number of threads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from paged_cases import PagedCase
from shapes import examples, head_dims, seeds

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference

dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int8])


def in_chunks(context: int, size: int) -> list[tuple[int, int, int]]:
    return [(0, begin, min(begin + size, context)) for begin in range(0, context, size)]


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(3, 3, 64), (6, 2, 40), (7, 1, 128)])
def test_chunks(isa, heads, kv_heads, head_dim, dtype, window):
    paged = PagedCase([150], heads, kv_heads, head_dim, dtype=dtype, window=window)
    whole = paged.attend([(0, 0, 150)])
    for size in (1, 7, 32):
        one_by_one = torch.cat([paged.attend([chunk]) for chunk in in_chunks(150, size)])
        assert torch.equal(one_by_one, whole), f"chunks of {size}"


@examples
@given(seed=seeds, head_dim=head_dims, dtype=dtypes, window=st.just(0) | st.integers(1, 80), data=st.data())
def test_batches(isa, seed, head_dim, dtype, window, data):
    contexts = data.draw(st.lists(st.integers(1, 90), min_size=2, max_size=6), label="contexts")
    paged = PagedCase(contexts, heads=3, kv_heads=1, head_dim=head_dim, dtype=dtype, window=window, seed=seed)
    firsts = [data.draw(st.integers(0, context - 1), label="first position") for context in contexts]
    chunks = [(s, first, contexts[s]) for s, first in enumerate(firsts)]
    together = paged.attend(chunks)
    assert torch.equal(torch.cat([paged.attend([chunk]) for chunk in chunks]), together)
    backwards = paged.attend(chunks[::-1]).split([end - begin for _, begin, end in chunks[::-1]])
    assert torch.equal(torch.cat(backwards[::-1]), together)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_block_sizes(isa, dtype):
    expected = PagedCase([130], block_size=16, dtype=dtype).attend([(0, 100, 130)])
    for block_size in (1, 3, 8, 24, 64, 256):
        assert torch.equal(PagedCase([130], block_size=block_size, dtype=dtype).attend([(0, 100, 130)]), expected)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_threads(isa, dtype):
    contexts = [300, 1, 17, 260, 64]
    paged = PagedCase(contexts, heads=6, kv_heads=2, dtype=dtype)
    chunks = [(0, 0, 300), (1, 0, 1), (2, 16, 17), (3, 200, 260), (4, 63, 64)]
    results = []
    for num_threads in (1, 2, 3, 8):
        kernels.set_num_threads(num_threads)
        results.append(paged.attend(chunks))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.slow
@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(("heads", "kv_heads"), [(20, 20), (36, 12), (17, 17)])
def test_however_many_heads_are_computed_together(isa, heads, kv_heads, dtype):
    """A task takes as many heads as have room, 24 rows, but fewer where a call has little work for its threads."""
    paged = PagedCase([70, 700, 33, 5], heads, kv_heads, dtype=dtype)
    decode = [(0, 69, 70), (1, 699, 700), (2, 31, 33), (3, 2, 5)]
    whole = paged.attend([(1, 690, 700)])
    results = []
    for num_threads in (1, 2, 8):
        kernels.set_num_threads(num_threads)
        results.append(paged.attend(decode))
        assert torch.equal(torch.cat([paged.attend([chunk]) for chunk in decode]), results[0])
    assert all(torch.equal(result, results[0]) for result in results)
    assert torch.equal(results[0][1], whole[-1])
    torch.testing.assert_close(results[0], paged.attend(decode, reference.paged_attention), rtol=1e-4, atol=1e-4)
