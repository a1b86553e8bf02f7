"""One rank: a process with a shard of the model, which runs the steps that the driver sends.

driver -> rank    RankSpec; RunSettings (with the number of KV blocks); then the numbers of steps, in the shared memory
rank -> driver    ("loaded", facts), ("started", None); after each step ("done", seconds waited for others)
                  ("refused", PagecliError), ("failed", text): the end
"""

import os
import traceback
from dataclasses import dataclass, replace

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.child_process import connect_to_parent
from pagecli.core.message_socket import MessageSocket
from pagecli.distributed.group_memory import GroupMemory, GroupShape
from pagecli.distributed.step_record import StepRecord, Wanted, unpack
from pagecli.errors import PagecliError

MODULE = "pagecli.distributed.rank"


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
    merge_lora: str | None = None
    keep_quantized: bool = False


class Rank:
    """The shard of `spec`, loaded. Raises PagecliError."""

    def __init__(self, spec: RankSpec) -> None:
        from pagecli.devices.cpu import kernels
        from pagecli.devices.cpu.device import CpuDevice
        from pagecli.devices.cpu.model import SharedParts
        from pagecli.model.registry import resolve_model, with_adapters
        from pagecli.model.shards import segment, shard, vocab_start

        kernels.set_num_threads(spec.num_threads)
        self._spec, self._memory = spec, GroupMemory(spec.shape, spec.memory_fd)
        self.meeting = kernels.rendezvous(self._memory.words, spec.rank, spec.timeout)
        source = with_adapters(resolve_model(spec.model, spec.load_format), spec.merge_lora)
        source = replace(source, keep_quantized=spec.keep_quantized)
        self._model = CpuDevice().load(
            source,
            spec.dtype,
            spec.max_batch_tokens,
            lambda program: shard(segment(program, spec.num_segments), spec.rank, spec.size),
            SharedParts(self._memory.parts, self.meeting),
        )
        self._first_token = vocab_start(source.config.vocab_size, spec.rank, spec.size)
        self.facts = {
            "pid": os.getpid(),
            "cpus": sorted(os.sched_getaffinity(0)),
            "cpu_isa": kernels.isa_name(),
            "num_threads": spec.num_threads,
            "weight_bytes": self._model.weight_bytes,
            "notes": self._model.notes,
            "config": repr(source.config),
        }

    def start(self, num_blocks: int, num_swap_blocks: int, block_size: int, kv_dtype: str) -> None:
        """Gets a KV cache of so many blocks."""
        from pagecli.devices.cpu import runner
        from pagecli.devices.cpu.runner import BlockMover

        self._kv, swap = (
            runner.allocate(self._model.config, count, block_size, kv_dtype) for count in (num_blocks, num_swap_blocks)
        )
        self._mover = BlockMover(self._kv, swap)

    def run(self, record: StepRecord) -> None:
        """Moves the blocks and computes; what is wanted is in the shared memory then. RuntimeError: a rank is missing."""
        self._mover.carry_out(record.moves)
        last = self._model.last_hidden(record.inputs, self._kv)
        if self.meeting.missing >= 0:
            raise RuntimeError(f"rank {self.meeting.missing} did not come")
        num_rows, rank = last.shape[0], self._spec.rank
        if record.wanted is Wanted.LOGITS:
            first, last_token = self._first_token, self._first_token + self._model.config.vocab_size
            self._model.lm_head(self._memory.logits[:num_rows, first:last_token], last)
        else:
            tokens, logits = self._model.lm_head.best(last)
            self._memory.best_tokens[rank, :num_rows] = tokens + self._first_token
            self._memory.best_logits[rank, :num_rows] = logits

    def slot(self, number: int) -> Array:
        return self._memory.slot(number)


def serve(messages: MessageSocket) -> None:
    """Runs a rank until its driver is gone, or it fails."""
    queue = messages.wait(None)
    if not queue:
        return
    spec = queue.pop(0)
    try:
        rank = Rank(spec)
    except PagecliError as error:
        messages.send(("refused", error))
        messages.flush_all(10.0)
        return
    messages.send(("loaded", rank.facts))
    started = False
    with np.errstate(all="ignore"):
        while not messages.is_closed:
            for message in queue or messages.wait(None):
                if not started:
                    rank.start(*message)
                    started = True
                    messages.send(("started", None))
                    continue
                record = unpack(rank.slot(message))
                if record.number != message:
                    raise RuntimeError(f"step {message} was asked for, and {record.number} is there")
                rank.run(record)
                messages.send(("done", rank.meeting.waited_seconds))
            queue = []


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
