"""A model on a group of ranks, as a device has it: its forward pass is a step record, its runner the CPU's."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.engine_config import EngineConfig
from pagecli.core.step_plan import BlockMove
from pagecli.devices import memory
from pagecli.devices.base import KVCache, RunSettings, StepInputs
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.device import ModelRunner
from pagecli.devices.cuda.presence import gpus_for
from pagecli.distributed.group import GroupSpec, RankGroup
from pagecli.distributed.group_memory import GroupShape
from pagecli.distributed.rank import RankSpec, Start
from pagecli.distributed.step_record import StepRecord, Wanted, record_bytes
from pagecli.errors import UsageError
from pagecli.model.build_program import build
from pagecli.model.program import Reduce
from pagecli.model.shards import check_divides, segment, shard
from pagecli.model.source import ModelSource

if TYPE_CHECKING:
    from pagecli.devices.step_masks import PendingMasks

MAX_MOVES = 8192  # of blocks in a step


class GroupModel:
    """See devices/base.HostModel."""

    def __init__(self, source: ModelSource, group: RankGroup) -> None:
        self.config = source.config
        self._group = group
        self.moves: list[BlockMove] = []  # before the next step
        self.weight_bytes = sum(facts["weight_bytes"] for facts in group.facts)
        self.notes: tuple[str, ...] = group.facts[0]["notes"]

    def forward(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        self._run(inputs, Wanted.LOGITS)
        return self._group.memory.logits[: len(inputs.logit_rows)]

    def most_likely(self, inputs: StepInputs[Array], kv: KVCache[Array], masks: "PendingMasks | None" = None) -> Array:
        """Of each rank's likeliest tokens the one with the largest logit, of equal ones the first. With masks the logits of all
        tokens come together first."""
        if masks is not None and (made := masks.result()) is not None:
            logits = self.forward(inputs, kv)
            kernels.restrict_logits(logits, made.words, made.mask_of)
            chosen = np.empty(len(logits), np.int64)
            kernels.argmax(chosen, logits)
            return chosen
        self._run(inputs, Wanted.TOKENS)
        rows = np.arange(len(inputs.logit_rows))
        logits, tokens = self._group.memory.best_logits[:, rows], self._group.memory.best_tokens[:, rows]
        found = np.empty(len(rows), np.int64)
        kernels.argmax(found, np.ascontiguousarray(logits.T))
        return np.where(found < 0, found, tokens[found, rows])

    def _run(self, inputs: StepInputs[Array], wanted: Wanted) -> None:
        moves, self.moves = self.moves, []
        self._group.run(StepRecord(0, wanted, moves, inputs))

    def start(self, settings: RunSettings) -> "GroupRunner":
        given = settings.kv_memory_bytes is not None
        num_blocks = self._group.room(settings) if self._group.on_gpus and not given else self._room(settings)
        self._group.start(Start(settings, num_blocks))
        return GroupRunner(self, num_blocks, settings.block_size)

    def _room(self, settings: RunSettings) -> int:
        """The KV blocks that the settings ask for, or that this machine has room for."""
        bytes_each = memory.block_bytes(self.config, settings.block_size, settings.kv_dtype)
        useful = memory.most_useful_blocks(settings.max_num_seqs, settings.max_model_len, settings.block_size)
        return memory.num_kv_blocks(settings.kv_memory_bytes, bytes_each, useful)

    def rank_stats(self) -> list[dict[str, Any]]:
        return self._group.stats()

    def close(self) -> None:
        self._group.close()


class QueuedMoves:
    """A BlockMover whose moves go to the ranks with the next step."""

    swap_seconds = 0.0

    def __init__(self, model: GroupModel) -> None:
        self._model = model

    def carry_out(self, moves: list[BlockMove]) -> None:
        self._model.moves += moves


class GroupRunner(ModelRunner):
    """The CPU's runner, with model and KV cache elsewhere."""

    def __init__(self, model: GroupModel, num_blocks: int, block_size: int) -> None:
        super().__init__(model, KVCache([], []), block_size)
        self.num_blocks = num_blocks
        self.mover = QueuedMoves(model)  # type: ignore[assignment]


def load_group(
    source: ModelSource, config: EngineConfig, device: str, dtype: str, num_threads: int, cpus: list[list[int]]
) -> GroupModel:
    """The model on config.tensor_parallel_size ranks; `cpus`: of each. Raises UsageError, ModelError."""
    size, segments = config.tensor_parallel_size, config.num_segments
    check_divides(source.config, size, dtype, "--tensor-parallel-size")
    check_divides(source.config, segments, dtype, "--sum-segments")
    if segments % size:
        message = f"--sum-segments {segments} is no multiple of --tensor-parallel-size {size}"
        raise UsageError(message, f"give {size}, {2 * size}, ...")
    if device == "cuda" and segments != size:
        message = f"--sum-segments {segments} with --tensor-parallel-size {size}: GPUs add one part each"
        raise UsageError(message, "leave out --sum-segments")
    gpus = gpus_for(size, f"--tensor-parallel-size {size}") if device == "cuda" else ()
    program = segment(build(source.config), segments)
    shard(program, 0, size)  # refuses what cannot be shared
    parts = [name for layer in program.layers for op in layer if isinstance(op, Reduce) for name in op.parts]
    max_model_len = min(config.max_model_len or source.config.max_positions, source.config.max_positions)
    max_blocks = -(-max_model_len // config.block_size)
    shape = GroupShape(
        ranks=size,
        record_bytes=record_bytes(config.max_batch_tokens, config.max_num_seqs, max_blocks, MAX_MOVES),
        part_names=tuple(dict.fromkeys(parts)),
        max_tokens=config.max_batch_tokens,
        hidden_size=source.config.hidden_size,
        vocab_size=source.config.vocab_size,
    )
    spec = RankSpec(
        rank=0,
        size=size,
        num_segments=segments,
        model=config.model,
        load_format=config.load_format,
        merge_lora=config.merge_lora,
        loras=config.loras,
        keep_quantized=source.keep_quantized,
        dtype=dtype,
        max_batch_tokens=config.max_batch_tokens,
        num_threads=num_threads,
        timeout=config.worker_timeout,
        memory_fd=-1,
        shape=shape,
        device=device,
    )
    return GroupModel(source, RankGroup(GroupSpec(spec, cpus, config.worker_timeout, gpus), source.on_read))
