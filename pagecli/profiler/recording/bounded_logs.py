"""Logs of a run in bounded memory: every step in a file, a sample of steps in memory, sums over all of them.

Of steps, every 2^k-th is kept in memory, k growing with the run; of requests and hardware samples likewise a bounded number.
"""

import dataclasses
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from pagecli.errors import InputError
from pagecli.profiler.recording.records import BlockMap, RequestRecord, StepRecord
from pagecli.profiler.recording.steps_file import StepsFile

ROW_GROUP = 8192  # steps
MAX_STEPS = 32_768  # kept in memory, about 12 MB
MAX_REQUESTS = 20_000
NUM_BLOCK_MAPS = 5

_FIELDS = [f.name for f in dataclasses.fields(StepRecord)]
_SUMMED = [(i, name) for i, name in enumerate(_FIELDS) if name not in ("step", "start_seconds", "blocks_total")]


class StepLog:
    """Adds a step at the cost of one append; the rest of the work is done once in ROW_GROUP steps."""

    def __init__(self, file: StepsFile | None = None, max_kept: int = MAX_STEPS) -> None:
        self.num_steps = 0
        self.stride = 1  # every so many steps one is kept
        self.sums: dict[str, float] = {name: 0 for _, name in _SUMMED}
        self.problem: InputError | None = None  # why the file ends early; the recorded run continues
        self._file = file
        self._max_kept = max_kept
        self._kept: list[tuple[Any, ...]] = []
        self._latest: list[tuple[Any, ...]] = []

    def add(self, values: tuple[Any, ...]) -> None:
        """One step: the fields of StepRecord in order."""
        self._latest.append(values)
        self.num_steps += 1
        if len(self._latest) >= ROW_GROUP:
            self._settle()

    def close(self) -> list[StepRecord]:
        """Complete the file; the steps kept."""
        if self._latest:
            self._settle()
        if self._file is not None:
            self._guarded(self._file.close)
        self._file = None
        return [StepRecord(*values) for values in self._kept]

    def _settle(self) -> None:
        rows, self._latest = self._latest, []
        for i, name in _SUMMED:
            self.sums[name] += sum(row[i] for row in rows)
        self._kept += [row for row in rows if row[0] % self.stride == 0]
        while len(self._kept) > self._max_kept:
            self.stride *= 2
            self._kept = [row for row in self._kept if row[0] % self.stride == 0]
        if self._file is not None:
            self._guarded(partial(self._file.write, rows))

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run `action`; an error (a full disk) ends the file, not the run."""
        try:
            action()
        except InputError as error:
            self._file, self.problem = None, error


class RequestLog:
    """A fair sample of the finished requests: each has the same chance to be in it (Vitter, 1985, algorithm R)."""

    def __init__(self, max_kept: int = MAX_REQUESTS) -> None:
        self.num_requests = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self._max_kept = max_kept
        self._kept: list[RequestRecord] = []
        self._random = random.Random(0)

    def add(self, record: RequestRecord) -> None:
        self.num_requests += 1
        self.prompt_tokens += record.prompt_tokens
        self.output_tokens += record.output_tokens
        if len(self._kept) < self._max_kept:
            self._kept.append(record)
        elif (at := self._random.randrange(self.num_requests)) < self._max_kept:
            self._kept[at] = record

    def kept(self) -> list[RequestRecord]:
        """In the order they finished."""
        return sorted(self._kept, key=lambda record: record.finished_seconds)


class BlockMapLog:
    """Snapshots of the pool, spread evenly over a run of unknown length."""

    def __init__(self, num_wanted: int = NUM_BLOCK_MAPS) -> None:
        self._num_wanted = num_wanted
        self._stride = 1
        self._taken: list[tuple[int, int, list[int], list[int], list[int]]] = []

    def wants(self, step: int) -> bool:
        return step % self._stride == 0

    def add(self, step: int, block_size: int, filled: list[int], ref_counts: list[int], cached_ids: list[int]) -> None:
        """`filled`, `ref_counts`: of every block. The log takes ownership of the lists."""
        self._taken.append((step, block_size, filled, ref_counts, cached_ids))
        if len(self._taken) > 4 * self._num_wanted:
            self._stride *= 2
            self._taken = [taken for taken in self._taken if taken[0] % self._stride == 0]

    def chosen(self) -> list[BlockMap]:
        """The middle ones of `num_wanted` equal parts of the run, or all there are."""
        num_taken, num_wanted = len(self._taken), self._num_wanted
        if num_taken <= num_wanted:
            return [_block_map(*taken) for taken in self._taken]
        middles = {(2 * i + 1) * num_taken // (2 * num_wanted) for i in range(num_wanted)}
        return [_block_map(*self._taken[at]) for at in sorted(middles)]


def _block_map(step: int, block_size: int, filled: list[int], ref_counts: list[int], cached_ids: list[int]) -> BlockMap:
    states = [slots if count else -1 for slots, count in zip(filled, ref_counts, strict=True)]
    for block_id in cached_ids:
        states[block_id] = -2
    return BlockMap(step, block_size, tuple(states), tuple(ref_counts))
