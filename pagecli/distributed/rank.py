"""One rank: a process with a shard of the model, which runs the steps that the driver sends.

driver -> rank    RankSpec; Room, on a GPU; Start; then the numbers of steps, in the shared memory
rank -> driver    ("loading", (parameters read so far, those of the model)), ("loaded", facts), ("room", KV blocks),
                  ("started", None); after each step ("done", seconds waited for others)
                  ("refused", PagecliError), ("failed", text): the end
"""

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.child_process import connect_to_parent
from pagecli.core.message_socket import MessageSocket
from pagecli.core.step_plan import BlockMove
from pagecli.devices.base import RunSettings, StepInputs
from pagecli.distributed.group_memory import GroupMemory, GroupShape
from pagecli.distributed.step_record import StepRecord, Wanted, unpack
from pagecli.errors import PagecliError

if TYPE_CHECKING:
    from pagecli.model.program import Program
    from pagecli.model.source import ModelSource

MODULE = "pagecli.distributed.rank"
NOTE_SECONDS = 0.2  # from one note of loading to the next
FIRST_STEP_FACTOR = 10  # of the time that is waited: loading reads memory, and the first step touches it, for the first time


@dataclass(frozen=True, slots=True)
class RankSpec:
    """All that a rank needs to load its shard."""

    rank: int
    size: int
    num_segments: int
    model: str
    load_format: str
    dtype: str
    max_batch_tokens: int
    num_threads: int
    timeout: float  # seconds that it waits for the others
    memory_fd: int
    shape: GroupShape
    device: str = "cpu"
    meeting_fd: int = -1  # of an empty file of the group, by which GPUs' ranks find each other
    merge_lora: str | None = None
    loras: tuple[tuple[str, str], ...] = ()
    keep_quantized: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """Asks how many KV blocks a rank has room for."""

    settings: RunSettings


@dataclass(frozen=True, slots=True)
class Start:
    """Gives a rank a KV cache of so many blocks."""

    settings: RunSettings
    num_blocks: int


class Shard(Protocol):
    """A rank's part of a model on its device. What it computes is wanted of the rank's part of the vocabulary.

    RuntimeError: a rank is missing.
    """

    weight_bytes: int
    notes: tuple[str, ...]

    @property
    def waited_seconds(self) -> float | None:
        """For other ranks, until now; None where nobody knows."""
        ...

    def start(self, settings: RunSettings, num_blocks: int) -> None: ...
    def move(self, moves: list[BlockMove]) -> None: ...
    def logits(self, inputs: StepInputs[Array], out: Array) -> None:
        """out[R, vocab] = the step's logits."""
        ...

    def best(self, inputs: StepInputs[Array]) -> tuple[Array, Array]:
        """The likeliest tokens and their logits: [R] int64, float32; where no token can be chosen the logit is not finite."""
        ...


@runtime_checkable
class OwnMemory(Protocol):
    """A shard whose device has memory of its own, which it measures; that of CPUs is shared, and divided by the driver."""

    def room(self, settings: RunSettings) -> int:
        """The KV blocks that these settings ask for or, where they do not say, that there is room for."""
        ...


class Rank:
    """The shard of `spec`, loaded. Raises PagecliError."""

    def __init__(self, spec: RankSpec, on_loading: Callable[[int, int], None] | None = None) -> None:
        from pagecli.devices.cpu import kernels
        from pagecli.model.registry import resolve_model, with_adapters
        from pagecli.model.shards import vocab_start

        kernels.set_num_threads(spec.num_threads)
        self._memory, self._rank = GroupMemory(spec.shape, spec.memory_fd), spec.rank
        source = with_adapters(resolve_model(spec.model, spec.load_format), spec.merge_lora, spec.loras)
        source = replace(source, keep_quantized=spec.keep_quantized, on_read=on_loading)
        self.shard, isa = self._load(spec, source)
        first, last = (vocab_start(source.config.vocab_size, rank, spec.size) for rank in (spec.rank, spec.rank + 1))
        self._tokens = slice(first, last)
        self.facts = {
            "pid": os.getpid(),
            "cpus": sorted(os.sched_getaffinity(0)),
            "isa": isa,
            "num_threads": spec.num_threads,
            "weight_bytes": self.shard.weight_bytes,
            "notes": self.shard.notes,
            "config": repr(source.config),
        }

    def _load(self, spec: RankSpec, source: "ModelSource") -> tuple[Shard, str]:
        """The shard, and the instruction set that it computes with."""
        from pagecli.model.shards import segment, shard

        def of_rank(program: "Program") -> "Program":
            return shard(segment(program, spec.num_segments), spec.rank, spec.size)

        loaded = source, spec.dtype, spec.max_batch_tokens, of_rank
        if spec.device == "cpu":
            from pagecli.devices.cpu import kernels
            from pagecli.distributed.cpu_shard import CpuShard

            meeting = kernels.rendezvous(self._memory.words, spec.rank, spec.timeout)
            return CpuShard(*loaded, self._memory.parts, meeting), kernels.isa_name()
        from pagecli.devices import base
        from pagecli.devices.cuda.device import CudaDevice
        from pagecli.devices.cuda.ranks.all_reduce import AllReduce
        from pagecli.devices.cuda.ranks.shard import CudaShard

        device = base.find(spec.device)
        assert isinstance(device, CudaDevice)
        all_reduce = AllReduce(spec.rank, spec.size, spec.meeting_fd, device.gpu.place, FIRST_STEP_FACTOR * spec.timeout)
        return CudaShard(device, *loaded, all_reduce), device.isa

    def run(self, record: StepRecord) -> None:
        """Moves the blocks and computes; what is wanted is in the shared memory then. RuntimeError: a rank is missing."""
        self.shard.move(record.moves)
        num_rows, memory = len(record.inputs.logit_rows), self._memory
        if record.wanted is Wanted.LOGITS:
            self.shard.logits(record.inputs, memory.logits[:num_rows, self._tokens])
        else:
            tokens, logits = self.shard.best(record.inputs)
            memory.best_tokens[self._rank, :num_rows] = tokens + self._tokens.start
            memory.best_logits[self._rank, :num_rows] = logits

    def run_number(self, number: int) -> None:
        """The step of that number, which the driver has written."""
        record = unpack(self._memory.record(number))
        if record.number != number:
            raise RuntimeError(f"step {number} was asked for, and {record.number} is there")
        self.run(record)

    def prepare(self, message: Any) -> tuple[str, Any]:
        """Does what the driver asks before the first step. Raises PagecliError."""
        if isinstance(message, Room):
            assert isinstance(self.shard, OwnMemory)
            return "room", self.shard.room(message.settings)
        self.shard.start(message.settings, message.num_blocks)
        return "started", None


class LoadingNotes:
    """Tells the driver now and then how much of the model a rank has read."""

    def __init__(self, messages: MessageSocket) -> None:
        self._messages, self._next = messages, 0.0

    def __call__(self, num_read: int, num_parameters: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + NOTE_SECONDS
            self._messages.send(("loading", (num_read, num_parameters)))


def serve(messages: MessageSocket) -> None:
    """Runs a rank until its driver is gone, or it fails."""
    queue = messages.wait(None)
    rank: Rank | None = None
    with np.errstate(all="ignore"):
        while queue or not messages.is_closed:
            for message in queue:
                if rank is not None and isinstance(message, int):
                    rank.run_number(message)
                    messages.send(("done", rank.shard.waited_seconds))
                    continue
                try:
                    if rank is None:
                        rank = Rank(message, LoadingNotes(messages))
                        messages.send(("loaded", rank.facts))
                    else:
                        messages.send(rank.prepare(message))
                except PagecliError as error:
                    messages.send(("refused", error))
                    messages.flush_all(10.0)
                    return
            queue = messages.wait(None)


def main() -> None:
    messages = connect_to_parent()
    try:
        serve(messages)
    except Exception as error:
        traceback.print_exc()
        messages.send(("failed", f"{type(error).__name__}: {error}"))
        messages.flush_all(10.0)
        os._exit(1)


if __name__ == "__main__":
    main()
