"""A rank's shard of a model on a GPU."""

from collections.abc import Callable
from dataclasses import replace

from pagecli.core.arrays import Array
from pagecli.core.step_plan import BlockMove
from pagecli.devices.base import RunSettings, StepInputs
from pagecli.devices.cuda.device import CudaDevice
from pagecli.devices.cuda.ranks.all_reduce import AllReduce
from pagecli.devices.cuda.ranks.runner import RankRunner
from pagecli.devices.cuda.steps import startup
from pagecli.devices.cuda.steps.memory_plan import GpuMemoryPlan
from pagecli.devices.memory import block_bytes
from pagecli.model.program import Program
from pagecli.model.source import ModelSource


class CudaShard:
    """See distributed/rank.Shard. Raises PagecliError."""

    waited_seconds: float | None = None  # for other ranks: on a GPU that is part of its work

    def __init__(
        self,
        device: CudaDevice,
        source: ModelSource,
        dtype: str,
        max_batch_tokens: int,
        of_program: Callable[[Program], Program],
        all_reduce: AllReduce,
    ) -> None:
        self._model = device.load(source, dtype, max_batch_tokens, of_program, all_reduce)
        self.weight_bytes, self.notes = self._model.weight_bytes, self._model.notes
        self._memory: GpuMemoryPlan | None = None
        self._runner: RankRunner

    def room(self, settings: RunSettings) -> int:
        self._memory = startup.measure(self._model, settings, RankRunner)
        return startup.num_kv_blocks(self._model, settings, self._memory)

    def start(self, settings: RunSettings, num_blocks: int) -> None:
        memory = self._memory or startup.measure(self._model, settings, RankRunner)
        own_bytes = num_blocks * block_bytes(self._model.config, settings.block_size, settings.kv_dtype)
        settings = replace(settings, kv_memory_bytes=own_bytes)
        self._runner = startup.start_in(self._model, settings, memory, RankRunner)

    def move(self, moves: list[BlockMove]) -> None:
        self._runner.mover.carry_out(moves)

    def logits(self, inputs: StepInputs[Array], out: Array) -> None:
        out[:] = self._runner.logits(inputs)

    def best(self, inputs: StepInputs[Array]) -> tuple[Array, Array]:
        return self._runner.best(inputs)
