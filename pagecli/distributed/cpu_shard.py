"""A rank's shard of a model on the CPU: partial sums are added through memory that all ranks share."""

from collections.abc import Callable
from typing import Any

from pagecli.core.arrays import Array
from pagecli.core.step_plan import BlockMove
from pagecli.devices.base import RunSettings, StepInputs
from pagecli.devices.cpu.device import BlockMover, CpuDevice, allocate
from pagecli.devices.cpu.partial_products import SharedParts
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
        return self._model.lm_head.best(self._last_hidden(inputs))

    def _last_hidden(self, inputs: StepInputs[Array]) -> Array:
        last = self._model.last_hidden(inputs, self._kv)
        if self._meeting.missing >= 0:
            raise RuntimeError(f"rank {self._meeting.missing} did not come")
        return last
