"""The plan of a GPU's memory: what the KV cache may take, and the one line that explains why something does not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.devices.cuda.steps.memory_plan import GpuMemoryPlan
from pagecli.errors import ModelError

GIB = 2**30
PLAN = GpuMemoryPlan("m", weights=6 * GIB, free=10 * GIB, step=1 * GIB, graphs=GIB // 2)


def test_the_cache_takes_what_remains():
    num_blocks = PLAN.num_kv_blocks(None, 2**20, 10**9)
    taken = num_blocks * 2**20 + PLAN.step + PLAN.graphs + PLAN.headroom
    assert 10 * GIB - 2**20 < taken <= 10 * GIB
    assert PLAN.num_kv_blocks(None, 2**20, 77) == 77  # no more than could be used


def test_what_was_asked_for_is_taken_if_it_fits():
    assert PLAN.num_kv_blocks(GIB, 2**20, 10) == 1024


def test_a_sum_that_does_not_fit_is_explained_in_one_line():
    with pytest.raises(ModelError) as raised:
        PLAN.num_kv_blocks(9 * GIB, 2**20, 10)
    assert raised.value.message == (
        "m does not fit: weights 6.00 GiB + the largest step 1.00 GiB + CUDA graphs 0.50 GiB + KV cache 9.00 GiB "
        "+ headroom 0.20 GiB = 16.70 GiB; 16.00 GiB of GPU memory are available"
    )
    assert raised.value.hint == "the largest that fits is --kv-memory 8499MiB"
    assert PLAN.num_kv_blocks(8499 * 2**20, 2**20, 10) == 8499
    with pytest.raises(ModelError, match=r"8\.30 GiB"):
        PLAN.num_kv_blocks(8500 * 2**20, 2**20, 10)


def test_where_not_one_block_is_left_the_steps_are_to_be_smaller():
    tight = GpuMemoryPlan("m", weights=6 * GIB, free=GIB, step=1 * GIB, graphs=0)
    with pytest.raises(ModelError, match=r"= 7\.02 GiB; 7\.00 GiB of GPU memory are available$") as raised:
        tight.num_kv_blocks(None, 2**20, 10)
    assert "--max-batch-tokens" in raised.value.hint
    with pytest.raises(ModelError, match=r"--kv-memory \(100 bytes\) is less than one KV block of 1,048,576 bytes"):
        PLAN.num_kv_blocks(100, 2**20, 10)


@given(*(st.integers(0, 2**34) for _ in range(4)), st.integers(1, 2**24), st.none() | st.integers(1, 2**34))
def test_it_never_promises_more_than_there_is(weights, free, step, graphs, block_bytes, asked):
    plan = GpuMemoryPlan("m", weights, free, step, graphs)
    try:
        num_blocks = plan.num_kv_blocks(asked, block_bytes, 2**20)
    except ModelError:
        assert plan.room < (asked or block_bytes) or (asked is not None and asked < block_bytes)
        return
    assert num_blocks >= 1
    assert num_blocks * block_bytes + step + graphs <= free
    assert asked is None or num_blocks == asked // block_bytes
