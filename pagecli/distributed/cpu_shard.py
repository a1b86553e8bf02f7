"""A rank's shard of a model on the CPU: partial sums are added through memory that all ranks share."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.step_plan import BlockMove
from pagecli.devices.base import RunSettings, StepInputs
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.device import BlockMover, CpuDevice, allocate
from pagecli.devices.cpu.model import LMHead
from pagecli.devices.cpu.partial_products import SharedParts
from pagecli.devices.cpu.weights.packed_weight import PANEL_WIDTH
from pagecli.model.program import Program
from pagecli.model.source import ModelSource


class CpuShard:
    """See rank.Shard. Raises PagecliError."""

    def __init__(
        self,
        source: ModelSource,
        dtype: str,
        max_batch_tokens: int,
        of_program: Callable[[Program], Program],
        parts: dict[str, Array],
        meeting: Any,
    ) -> None:
        """`parts`: by name, of all ranks; `meeting`: kernels.rendezvous."""
        self._meeting = meeting
        self._model = CpuDevice().load(source, dtype, max_batch_tokens, of_program, SharedParts(parts, meeting))
        self.weight_bytes, self.notes = self._model.weight_bytes, self._model.notes

    @property
    def waited_seconds(self) -> float:
        return float(self._meeting.waited_seconds)

    def start(self, settings: RunSettings, num_blocks: int) -> None:
        counts, layout = (num_blocks, settings.num_swap_blocks), (settings.block_size, settings.kv_dtype)
        self._kv, swap = (allocate(self._model.config, count, *layout) for count in counts)
        self._mover = BlockMover(self._kv, swap)

    def move(self, moves: list[BlockMove]) -> None:
        self._mover.carry_out(moves)

    def logits(self, inputs: StepInputs[Array], out: Array) -> None:
        self._model.lm_head(out, self._last_hidden(inputs))

    def best(self, inputs: StepInputs[Array]) -> tuple[Array, Array]:
        return best(self._model.lm_head, self._last_hidden(inputs))

    def _last_hidden(self, inputs: StepInputs[Array]) -> Array:
        last = self._model.last_hidden(inputs, self._kv)
        if self._meeting.missing >= 0:
            raise RuntimeError(f"rank {self._meeting.missing} did not come")
        return last


def best(head: LMHead, x: Array) -> tuple[Array, Array]:
    """argmax's tokens, and their logits, as linear computes them: [M] int64, [M] float32.

    Where no token can be chosen the logit says why: NaN beside one that is not finite, -inf where all are.
    """
    if head.bias is not None:
        every, tokens = head.biased(x), np.empty(x.shape[0], np.int64)
        kernels.argmax(tokens, every)
        unusable = np.where(np.isneginf(every).all(axis=1), np.float32(-np.inf), np.float32(np.nan))
        return np.maximum(tokens, 0), np.where(tokens < 0, unusable, every[np.arange(len(every)), tokens])
    tokens = head.argmax(x)
    logits = np.empty(len(tokens), np.float32)
    for row, token in enumerate(tokens.tolist()):
        weight = head.weight if token < 0 else head.weight.panel(token // PANEL_WIDTH)
        out = np.empty((1, weight.num_rows), np.float32)
        kernels.linear(out, x[row : row + 1], weight)
        if token >= 0:
            logits[row] = out[0, token % PANEL_WIDTH]
        else:
            logits[row] = -np.inf if np.all(np.isneginf(out)) else np.nan
    return np.maximum(tokens, 0), logits
