"""From a step's plan to the arrays a forward pass takes."""

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from pagecli.kernels.arrays import Array
from pagecli.model.step_inputs import StepInputs

if TYPE_CHECKING:
    from pagecli.core.step_plan import StepPlan


def build(plan: "StepPlan", block_size: int) -> StepInputs[Array]:
    """Concatenate the plan's chunks: T tokens of S sequences, R of them sampled (shapes in StepInputs)."""
    chunks = plan.chunks
    lengths = np.array([len(c.token_ids) for c in chunks], dtype=np.int32)
    starts = np.array([c.start for c in chunks], dtype=np.int32)
    query_start = np.zeros(len(chunks) + 1, dtype=np.int32)
    np.cumsum(lengths, out=query_start[1:])
    token_ids = np.fromiter(chain.from_iterable(c.token_ids for c in chunks), dtype=np.int32, count=query_start[-1])

    block_tables = np.zeros((len(chunks), max(len(c.block_ids) for c in chunks)), dtype=np.int32)
    for row, chunk in zip(block_tables, chunks, strict=True):
        row[: len(chunk.block_ids)] = chunk.block_ids

    rows = np.repeat(np.arange(len(chunks)), lengths)
    positions = np.arange(len(token_ids), dtype=np.int32) + np.repeat(starts - query_start[:-1], lengths)
    slot_ids = block_tables[rows, positions // block_size].astype(np.int64) * block_size + positions % block_size
    sampled = np.array([bool(c.specs) for c in chunks], dtype=bool)
    logit_rows = (query_start[1:] - 1)[sampled].astype(np.int64)
    return StepInputs(
        token_ids=token_ids,
        positions=positions,
        slot_ids=slot_ids,
        block_tables=block_tables,
        context_lens=starts + lengths,
        query_start=query_start,
        logit_rows=logit_rows,
    )
