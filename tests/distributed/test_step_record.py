"""The packed record of a step: what comes out is what went in, and damage is seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.core.step_plan import BlockMove, MoveKind
from pagecli.devices.base import StepInputs
from pagecli.distributed.step_record import DamagedRecordError, StepRecord, Wanted, pack, record_bytes, unpack


def record_of(seed, tokens, sequences, blocks, rows, moves):
    random = np.random.Generator(np.random.PCG64(seed))

    def numbers(dtype, *shape):
        return random.integers(0, 2**31 - 1, shape, dtype=dtype)

    inputs = StepInputs(
        token_ids=numbers(np.int32, tokens),
        positions=numbers(np.int32, tokens),
        slot_ids=numbers(np.int64, tokens),
        block_tables=numbers(np.int32, sequences, blocks),
        context_lens=numbers(np.int32, sequences),
        query_start=numbers(np.int32, sequences + 1),
        logit_rows=numbers(np.int64, rows),
        adapter_ids=numbers(np.int32, tokens) if seed % 3 else None,
    )
    found = [BlockMove(list(MoveKind)[i % 3], int(random.integers(1000)), i) for i in range(moves)]
    return StepRecord(seed, Wanted(seed % 2), found, inputs)


SIZES = st.tuples(st.integers(0, 2**40), *(st.integers(1, 9),) * 4, st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_unpacked_record_is_the_packed_one(sizes):
    record = record_of(*sizes)
    _, tokens, sequences, blocks, _, moves = sizes
    memory = np.zeros(record_bytes(max(tokens, 9), sequences, blocks, moves), np.uint8)
    assert pack(record, memory) <= len(memory)
    found = unpack(memory)
    assert (found.number, found.wanted, found.moves) == (record.number, record.wanted, record.moves)
    for name in StepInputs.__slots__:
        one, other = getattr(found.inputs, name), getattr(record.inputs, name)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
        assert np.array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 10**6), st.integers(1, 255))
def test_changed_byte_is_seen(sizes, where, change):
    memory = np.zeros(4096, np.uint8)
    end = pack(record_of(*sizes), memory)
    memory[where % end] ^= change
    with pytest.raises(DamagedRecordError):
        unpack(memory)


def test_record_that_has_no_room_is_refused():
    with pytest.raises(ValueError, match="larger than its room"):
        pack(record_of(1, 9, 9, 9, 9, 5), np.zeros(200, np.uint8))
