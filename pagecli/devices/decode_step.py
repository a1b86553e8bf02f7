"""A step of which every sequence decodes one token, as most do: its plan as arrays, and its inputs, of which block tables are
kept from one step to the next."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.step_plan import BlockMove, Chunk, KVUsage, SampleSpec, StepPlan, make_chunk
from pagecli.devices.base import StepInputs, inputs_of


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
        same = {"seq_ids": batch.seq_ids, "block_ids": batch.block_ids, "asked": batch.specs}
        vars(self).update(own | given | same, num_tokens=num, num_sampled=num)

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
        self._batch: DecodeBatch | None = None  # that the inputs are of
        self._inputs: StepInputs[Array] | None = None

    def of(self, plan: StepPlan) -> StepInputs[Array]:
        """As inputs_of; the next call changes the arrays. All sequences of a batch are a token further from step to step."""
        if not isinstance(plan, DecodePlan):
            return inputs_of(plan, self._block_size)
        kept = self._inputs
        if kept is None or plan.batch is not self._batch or plan.starts[0] != kept.context_lens[0]:
            made = inputs_of(plan, self._block_size)
        else:
            made = self._advanced(kept, plan)
        self._batch, self._inputs = plan.batch, made
        return made

    def _advanced(self, inputs: StepInputs[Array], plan: "DecodePlan") -> StepInputs[Array]:
        """The inputs a token further."""
        for array in (inputs.positions, inputs.slot_ids, inputs.context_lens):
            array += 1
        tables, rows = inputs.block_tables, np.flatnonzero(inputs.positions % self._block_size == 0)
        if len(rows):  # whose slots are in other blocks than before
            at = inputs.positions[rows] // self._block_size
            wider = int(at.max()) + 1 - tables.shape[1]
            if wider > 0:
                tables = np.pad(tables, ((0, 0), (0, wider)))
            block_ids, places = plan.block_ids, zip(rows.tolist(), at.tolist(), strict=True)
            tables[rows, at] = found = np.array([block_ids[row][block] for row, block in places], np.int32)
            inputs.slot_ids[rows] = found * np.int64(self._block_size)
        return replace(inputs, token_ids=plan.last_tokens, block_tables=tables)
