"""A step's inputs packed for the GPU: every array comes back, of one shape in one place; sizes of batches and tables."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pagecli.devices.cuda.model.attention import AttentionShape
from pagecli.devices.cuda.steps import graphs, step_buffers

ARRAY = st.tuples(st.sampled_from(["int32", "int64", "float32"]), st.lists(st.integers(0, 5), min_size=1, max_size=2))


@given(st.lists(ARRAY, max_size=6))
def test_packed_arrays_come_back(kinds):
    buffer = torch.zeros(4096, dtype=torch.uint8)
    arrays = {f"a{i}": np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape) + i for i, (dtype, shape) in enumerate(kinds)}
    places, num_bytes = step_buffers.pack(arrays, buffer.numpy())
    found = step_buffers.views(places, buffer)
    for name, array in arrays.items():
        assert np.array_equal(found[name].numpy(), array)
        assert found[name].data_ptr() % 4 == 0
        assert found[name].is_contiguous()
    assert all(offset % step_buffers.ALIGNMENT == 0 and offset <= num_bytes for _, offset, _, _ in places)
    more, _ = step_buffers.pack(arrays | {"last": np.zeros(3, dtype=np.int32)}, buffer.numpy())
    assert more[:-1] == places


def test_a_buffer_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="more than the 8 bytes"):
        step_buffers.pack({"a": np.zeros(3, dtype=np.int32)}, np.zeros(8, dtype=np.uint8))


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20]), (24, [1, 2, 4, 8, 16, 24])]
)
def test_batches_are_padded_to_few_sizes(most, sizes):
    assert graphs.batch_sizes(most) == sizes


def test_large_batches_have_few_sizes():
    assert len(graphs.batch_sizes(256)) == 27
    assert len(graphs.batch_sizes(1024)) == 43


@given(st.integers(1, 1500), st.integers(1, 1500))
def test_every_batch_has_a_size_not_much_larger(most, num_rows):
    num_rows = min(num_rows, most)
    size = next(size for size in graphs.batch_sizes(most) if size >= num_rows)
    assert size <= most
    assert size < max(num_rows + 8, num_rows * 9 / 8)


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_tables_have_few_widths(num_blocks, max_width):
    num_blocks = min(num_blocks, max_width)
    width = step_buffers.table_width(num_blocks, max_width)
    assert num_blocks <= width <= max_width
    assert width == max_width or width in (64, 256, 1024, 4096, 16384)


@given(st.integers(1, 8), st.integers(0, 64), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(1, 3))
def test_the_largest_step_fits_into_the_buffer(num_seqs, more_tokens, dtype, num_windows):
    """The arrays of a step with all the rows, runs, tiles, feeds and scores that there may be."""
    shape, tokens, width, spare = AttentionShape(4, 2, 64, dtype, 12), num_seqs + more_tokens, 7, 12
    rows = tokens if dtype == torch.float32 else num_seqs
    i4 = [tokens, tokens, num_seqs * width, num_seqs, num_seqs + 1]
    for _ in range(num_windows):
        i4 += [(rows + spare) * 5, rows * 3, (tokens * shape.group // 64 + num_seqs) * 2]
    arrays = {f"i4/{i}": np.zeros(n, dtype=np.int32) for i, n in enumerate(i4)}
    rows_of_logits = num_seqs + step_buffers.MAX_SCORES  # and as many for the host
    i8 = [tokens, num_seqs, num_seqs, rows_of_logits, rows_of_logits]
    arrays |= {f"i8/{i}": np.zeros(n, dtype=np.int64) for i, n in enumerate(i8)}
    size = step_buffers.most_bytes(tokens, num_seqs, width, num_windows, shape, spare)
    _, num_bytes = step_buffers.pack(arrays, np.zeros(size, dtype=np.uint8))
    # What alignment may cost, and no more: the memory is pinned.
    assert num_bytes <= size < num_bytes + 1024
