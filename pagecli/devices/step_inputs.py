"""The inputs of a model's forward pass for one step: plain arrays (numpy's on the CPU, torch's tensors on a GPU), passed as an
argument, never a global."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from pagecli.core.arrays import Array

if TYPE_CHECKING:
    from pagecli.core.step_plan import StepPlan

T = TypeVar("T")  # of arrays


@dataclass(frozen=True, slots=True)
class StepInputs(Generic[T]):
    """Tokens [T] of S sequences, concatenated; R of the tokens need logits."""

    token_ids: T  # [T] int32
    positions: T  # [T] int32, position of the token in its sequence
    slot_ids: T  # [T] int64, KV slot the token's K and V are written to
    block_tables: T  # [S, max_blocks] int32
    context_lens: T  # [S] int32, tokens in the cache after this step's writes
    query_start: T  # [S + 1] int32, rows of sequence s are query_start[s]:query_start[s + 1]
    logit_rows: T  # [R] int64, rows whose next-token logits are wanted
    adapter_ids: T | None = None  # [T] int32, the token's LoRA adapter or -1; None: no token has one


@dataclass(frozen=True, slots=True, weakref_slot=True)
class KVCache(Generic[T]):
    """K and V of every layer: values[layer][num_blocks, kv_heads, block_size, head_dim] (int8: + 4); keys[layer] the same on a
    GPU, on the CPU [num_blocks, kv_heads, head_dim, block_size]."""

    keys: list[T]
    values: list[T]


def build(plan: "StepPlan", block_size: int) -> StepInputs[Array]:
    """Concatenate the plan's chunks: T tokens of S sequences, R of them sampled (shapes in StepInputs)."""
    _, of_chunks, firsts, tables, specs, *_ = plan.columns
    lengths = np.fromiter(map(len, of_chunks), dtype=np.int32, count=len(of_chunks))
    starts = np.array(firsts, dtype=np.int32)
    query_start = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=query_start[1:])
    token_ids = np.fromiter(chain.from_iterable(of_chunks), dtype=np.int32, count=query_start[-1])

    block_tables = _padded(tables)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(token_ids), dtype=np.int32) + np.repeat(starts - query_start[:-1], lengths)
    slot_ids = block_tables[rows, positions // block_size].astype(np.int64) * block_size + positions % block_size
    if plan.has_wanted:
        counts = np.array([c.num_logits for c in plan.chunks], dtype=np.int64)
        ends = np.cumsum(counts)
        logit_rows = np.arange(ends[-1]) + np.repeat(query_start[1:] - ends, counts)
    else:
        logit_rows = query_start[1:].astype(np.int64) - 1
        if not all(specs):
            logit_rows = logit_rows[np.fromiter(map(bool, specs), dtype=bool, count=len(specs))]
    return StepInputs(
        token_ids=token_ids,
        positions=positions,
        slot_ids=slot_ids,
        block_tables=block_tables,
        context_lens=starts + lengths,
        query_start=query_start,
        logit_rows=logit_rows,
        adapter_ids=np.repeat(np.array(plan.adapters, np.int32), lengths) if plan.adapters else None,
    )


def _padded(tables: Sequence[Sequence[int]]) -> Array:
    """[S, max_blocks] int32: the tables, zeros behind them. Copied from arrays of C ints, as the KV manager keeps them."""
    lengths = list(map(len, tables))
    width = max(lengths)
    zeros = {length: bytes(4 * (width - length)) for length in set(lengths)}
    ints = [table if type(table) is array else array("i", table) for table in tables]
    flat = bytearray().join(chain.from_iterable(zip(ints, map(zeros.__getitem__, lengths), strict=True)))
    return np.frombuffer(flat, dtype=np.int32).reshape(len(tables), width)
