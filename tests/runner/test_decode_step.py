"""Inputs of steps that only decode, made from those of the step before: the same as made anew."""

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pagecli.devices.base import inputs_of
from pagecli.devices.decode_step import DecodeBatch, DecodePlan, KeptInputs

BLOCK_SIZE = 4


def next_plan(batch, lengths):
    """The step in which each sequence decodes the token behind `lengths` of them; blocks are added where it needs one."""
    for tables, length in zip(batch.block_ids, lengths, strict=True):
        if length == len(tables) * BLOCK_SIZE:
            tables.append(int(1000 + 7 * length + tables[0]))
    return DecodePlan(batch, np.array(lengths), np.arange(len(lengths), dtype=np.int32), [], (), None)


def new_batch(lengths, adapters):
    tables = [array("i", range(100 * i, 100 * i + max(1, -(-n // BLOCK_SIZE)))) for i, n in enumerate(lengths)]
    return DecodeBatch(list(range(len(lengths))), tables, [((),)] * len(lengths), adapters)


BATCH = st.tuples(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.lists(st.integers(1, 2), max_size=12))


@given(st.lists(BATCH, max_size=3))
def test_kept_inputs_are_those_made_anew(batches):
    kept = KeptInputs(BLOCK_SIZE)
    for lengths, strides in batches:
        batch = new_batch(lengths, [i % 2 for i in range(len(lengths))] if len(lengths) % 2 else ())
        for stride in (0, *strides):  # 2: a step that this device did not see
            for _ in range(stride):
                lengths = [length + 1 for length in lengths]
                plan = next_plan(batch, lengths)
            plan = next_plan(batch, lengths)
            found, right = kept.of(plan), inputs_of(plan, BLOCK_SIZE)
            for name in type(right).__slots__:
                made, expected = getattr(found, name), getattr(right, name)
                assert (made is None) == (expected is None), name
                if made is not None:
                    assert made.dtype == expected.dtype, name
                    assert np.array_equal(made, expected), name
