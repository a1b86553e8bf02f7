"""The ranks of one model as their driver sees them: started together, one step at a time, ended together.

A rank that ends, or does not answer in time, is the end of its group: the others are released and ended, and a new group is
started once; a second loss within a few steps ends the job.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pagecli.core.child_process import ChildProcess
from pagecli.core.message_socket import wait_for_any
from pagecli.devices.base import RunSettings
from pagecli.distributed.group_memory import GroupMemory
from pagecli.distributed.rank import FIRST_STEP_FACTOR, MODULE, RankSpec, Room, Start
from pagecli.distributed.step_record import StepRecord, pack
from pagecli.errors import EngineLostError, ModelError

STEPS_BETWEEN_LOSSES = 10
POLL_SECONDS = 0.5


class RankLostError(RuntimeError):
    """A rank is gone; a new group has been started, whose KV cache is empty."""


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A group of `spec.size` ranks; `cpus`: where each may run; `timeout`: seconds that the driver waits for an answer."""

    spec: RankSpec  # of rank 0; its files are not set
    cpus: Sequence[Sequence[int]]
    timeout: float
    gpus: Sequence[str] = ()  # of each rank, as CUDA_VISIBLE_DEVICES names it; empty: on CPUs


class RankGroup:
    """Ranks with their shards loaded. Raises PagecliError."""

    def __init__(self, group: GroupSpec, on_loading: Callable[[int, int], None] | None = None) -> None:
        """`on_loading`: called with the parameters read so far by the rank that is least far, and those of the model."""
        self._group, self._on_loading = group, on_loading
        self._start: Start | None = None
        self._number = self._last_loss = 0  # of steps
        self.num_restarts = 0
        self.waited: list[float | None] = []
        self._launch()

    @property
    def on_gpus(self) -> bool:
        return self._group.spec.device != "cpu"

    def _launch(self) -> None:
        spec = self._group.spec
        try:
            self.memory = GroupMemory(spec.shape)
        except OSError as error:
            hint = "lower --max-batch-tokens, or do without: --tensor-parallel-size 1"
            raise ModelError(f"tensor parallelism: no memory that ranks can share: {error.strerror}", hint) from error
        self._processes: list[ChildProcess] = []
        self._loading: dict[int, tuple[int, int]] = {}
        self._num_steps = 0
        self.waited = [0.0] * spec.size
        try:
            for rank in range(spec.size):
                self._processes.append(self._process(rank))
            self.facts: list[dict[str, Any]] = self._answers(FIRST_STEP_FACTOR * self._group.timeout)
            self._check_same()
            if self._start is not None:
                self.start(self._start)
        except RankLostError as error:
            self.close()
            raise ModelError(
                f"tensor parallelism: {error}", "see what ends it; --tensor-parallel-size 1 does without"
            ) from error
        except BaseException:
            self.close()
            raise

    def _process(self, rank: int) -> ChildProcess:
        memory, group = self.memory, self._group
        fds = (memory.fd, memory.meeting_fd)
        environment = {"CUDA_VISIBLE_DEVICES": group.gpus[rank]} if group.gpus else None
        process = ChildProcess(MODULE, fds, group.cpus[rank], environment)
        process.messages.send(replace(group.spec, rank=rank, memory_fd=memory.fd, meeting_fd=memory.meeting_fd))
        return process

    def _check_same(self) -> None:
        """Raises ModelError where ranks would compute different things."""
        for name, what in (("isa", "instruction set"), ("config", "model")):
            values = [facts[name] for facts in self.facts]
            if len(set(values)) > 1:
                other = next(rank for rank, value in enumerate(values) if value != values[0])
                raise ModelError(f"ranks differ in their {what}: {values[0]} on rank 0, {values[other]} on rank {other}")

    def room(self, settings: RunSettings) -> int:
        """The KV blocks that every rank has room for. Raises PagecliError."""
        return int(min(self._asked(Room(settings))))

    def start(self, start: Start) -> None:
        """Gives each rank its part of a KV cache of so many blocks. Raises PagecliError."""
        self._start = start
        self._asked(start)

    def _asked(self, message: Any) -> list[Any]:
        for process in self._processes:
            process.messages.send(message)
        return self._answers(FIRST_STEP_FACTOR * self._group.timeout)

    def run(self, record: StepRecord) -> None:
        """Runs a step on all ranks. Raises RankLostError after a restart, EngineLostError if there are no ranks any more."""
        if not self._processes:
            raise EngineLostError("tensor parallelism: the ranks are lost", "finished rows are kept")
        self._number += 1
        pack(replace(record, number=self._number), self.memory.record(self._number))
        for process in self._processes:
            process.messages.send(self._number)
        try:
            self.waited = self._answers(self._group.timeout * (1 if self._num_steps else FIRST_STEP_FACTOR))
        except RankLostError as error:
            self._restart(error)
            raise
        self._num_steps += 1

    def _restart(self, error: RankLostError) -> None:
        is_again = self.num_restarts > 0 and self._number - self._last_loss <= STEPS_BETWEEN_LOSSES
        self.close()
        if is_again:
            raise EngineLostError(
                f"tensor parallelism: {error}, for the second time in a row", "finished rows are kept"
            ) from error
        self.num_restarts, self._last_loss = self.num_restarts + 1, self._number
        try:
            self._launch()
        except ModelError as problem:  # no step may run on ranks that are not there
            text = f"tensor parallelism: {error}, and could not be started again: {problem.message}"
            raise EngineLostError(text, "finished rows are kept") from problem

    def _answers(self, seconds: float) -> list[Any]:
        """Each rank's answer to what it was asked. Raises RankLostError, and what a rank refused.

        Time for which this process itself was stopped is not a rank's silence.
        """
        answers: dict[int, Any] = {}
        looked = time.monotonic()
        deadline = looked + seconds
        while len(answers) < len(self._processes):
            waiting = {rank: process for rank, process in enumerate(self._processes) if rank not in answers}
            sockets = [process.messages for process in waiting.values()]
            wait_for_any(sockets, POLL_SECONDS)
            for rank, process in waiting.items():
                process.messages.flush()
                for found, content in process.messages.receive():
                    if found == "loading":
                        self._note_loading(rank, content)
                        continue
                    if found == "refused":
                        raise content
                    if found == "failed":
                        self._lose(rank, content)
                    answers[rank] = content
                if rank not in answers and process.messages.is_closed:
                    process.kill()
                    self._lose(rank, process.end_text())
            looked, away = time.monotonic(), time.monotonic() - looked
            deadline += away if away > 2 * POLL_SECONDS else 0.0
            missing = [rank for rank in waiting if rank not in answers]
            if missing and looked > deadline:
                self._lose(missing[0], f"no answer in {seconds:g} s")
        return [answers[rank] for rank in range(len(self._processes))]

    def _note_loading(self, rank: int, read: tuple[int, int]) -> None:
        self._loading[rank] = read
        if self._on_loading is not None and len(self._loading) == len(self._processes):
            self._on_loading(*min(self._loading.values()))

    def _lose(self, rank: int, how: str) -> None:
        """Raises RankLostError; of a rank that waited in vain for another, the other is the one."""
        self.memory.release()
        for other, process in enumerate(self._processes):
            code = process.exit_code
            if other != rank and code is not None and code < 0:
                rank, how = other, process.end_text()
        raise RankLostError(f"rank {rank} of {len(self._processes)} was lost: {how}")

    def stats(self) -> list[dict[str, Any]]:
        """A row for each rank: where it runs, its weights, and how long it waited for others since it was started."""
        rows = []
        for rank, (facts, waited) in enumerate(zip(self.facts, self.waited, strict=True)):
            row = {"rank": rank, "pid": facts["pid"], "cpus": facts["cpus"], "cpu_isa": facts["isa"]}
            if self._group.gpus:
                row["gpu"] = self._group.gpus[rank]
            row |= {"num_threads": facts["num_threads"], "weight_bytes": facts["weight_bytes"]}
            rows.append(row | ({} if waited is None else {"waited_seconds": waited}) | {"num_restarts": self.num_restarts})
        return rows

    def close(self) -> None:
        """Ends all ranks."""
        self.memory.release()
        for process in self._processes:
            process.messages.close()
        for process in self._processes:
            process.close()
        self._processes = []
        self.memory.close()
