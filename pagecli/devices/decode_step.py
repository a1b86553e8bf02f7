"""A step of which every sequence decodes one token, as most do: its plan as arrays, and its inputs, of which block tables are
kept from one step to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.step_plan import BlockMove, Chunk, KVUsage, SampleSpec, StepPlan, make_chunk
from pagecli.devices.base import StepInputs, inputs_of, padded_tables


@dataclass(frozen=True, slots=True, eq=False)
class DecodeBatch:
    """Of n sequences that decode, in the order of their rows. Read it, do not change it; the block tables grow.

    The same object from step to step as long as the same sequences decode, so that a device keeps what it makes of it.
    """

    seq_ids: list[int]
    block_ids: list[Sequence[int]]
    specs: list[tuple[SampleSpec, ...]]  # one of each
    adapters: Sequence[int] = ()  # as StepPlan has them


class DecodePlan(StepPlan):
    """starts[n] int64, the position of each sequence's next token; last_tokens[n] int32, the token. The chunks are made where
    somebody asks for chunks."""

    batch: DecodeBatch
    starts: Array
    last_tokens: Array
    num_repeated, is_decode = 0, True

    def __init__(
        self,
        batch: DecodeBatch,
        starts: Array,
        last_tokens: Array,
        moves: list[BlockMove],
        feeds: Sequence[tuple[int, int]],
        memory: KVUsage | None,
    ) -> None:
        num, own = len(starts), {"batch": batch, "starts": starts, "last_tokens": last_tokens}
        given = {"moves": moves, "feeds": feeds, "memory": memory, "has_wanted": False, "adapters": batch.adapters}
        same = {"block_ids": batch.block_ids, "asked": batch.specs, "num_tokens": num, "num_sampled": num}
        vars(self).update(own | given | same)

    @cached_property
    def columns(self) -> Any:
        batch, num = self.batch, len(self.starts)
        token_ids = [[token_id] for token_id in self.last_tokens.tolist()]
        return Chunk(batch.seq_ids, token_ids, self.starts.tolist(), batch.block_ids, batch.specs, (0,) * num, (None,) * num)  # type: ignore[arg-type]

    @cached_property
    def chunks(self) -> list[Chunk]:
        return list(map(make_chunk, zip(*self.columns, strict=True)))


class KeptInputs:
    """Makes the inputs of one step after the other: those of the last one are not used any more when the next are made."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._batch: DecodeBatch | None = None  # that the arrays are of
        self._next_starts = self._rows = np.empty(0, np.int64)
        self._query_start = np.empty(0, np.int32)
        self._block_tables = np.empty((0, 0), np.int32)

    def of(self, plan: StepPlan) -> StepInputs[Array]:
        """As inputs_of; the next call changes block_tables."""
        if not isinstance(plan, DecodePlan):
            return inputs_of(plan, self._block_size)
        batch, starts = plan.batch, plan.starts
        blocks, offsets = np.divmod(starts, self._block_size)
        if batch is self._batch and np.array_equal(starts, self._next_starts):
            self._add_blocks(batch, blocks, np.flatnonzero(offsets == 0))
        else:
            self._keep(batch)
        self._next_starts = starts + 1
        return StepInputs(
            token_ids=plan.last_tokens,
            positions=starts.astype(np.int32),
            slot_ids=self._block_tables[self._rows, blocks] * np.int64(self._block_size) + offsets,
            block_tables=self._block_tables,
            context_lens=self._next_starts.astype(np.int32),
            query_start=self._query_start,
            logit_rows=self._rows,
            adapter_ids=np.array(plan.adapters, np.int32) if plan.adapters else None,
        )

    def _keep(self, batch: DecodeBatch) -> None:
        num = len(batch.seq_ids)
        self._batch, self._block_tables = batch, padded_tables(batch.block_ids)
        self._rows, self._query_start = np.arange(num), np.arange(num + 1, dtype=np.int32)

    def _add_blocks(self, batch: DecodeBatch, blocks: Array, rows: Array) -> None:
        """In these rows of the tables, the block that their sequences' next slot lies in."""
        if not len(rows):
            return
        wider = int(blocks[rows].max()) + 1 - self._block_tables.shape[1]
        if wider > 0:
            self._block_tables = np.pad(self._block_tables, ((0, 0), (0, wider)))
        at = blocks[rows]
        self._block_tables[rows, at] = [
            batch.block_ids[row][block] for row, block in zip(rows.tolist(), at.tolist(), strict=True)
        ]
