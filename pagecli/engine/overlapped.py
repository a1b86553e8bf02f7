"""Steps of an asynchronous device: the next is planned and launched while a step runs, whose results are read one step late.

    host      plan 2  launch 2 | collect 1  commit 1 | plan 3  launch 3 | collect 2  commit 2 | ...
    device    ====== step 1 =========== ====== step 2 ============================ ====== step 3 ===

That needs a device that chooses a step's tokens without the host (can_pipeline): the next one is fed them on the device. After
any other step, and where memory is so short that a request must be preempted, the loop waits: it commits before it plans. An
engine on a CPU never comes here: its cores are all busy while a step runs.

A step that was launched will have computed its tokens when the next one starts, so planning assumes them computed. What it
chose is not known: each sequence that it chooses one token for gets a PLACEHOLDER as its last token, which the next step is fed
on the device and which commit() replaces. The end that a sequence's length sets is known in time; an end or stop token, or a
stop string, is seen one step late: what the next step computes for it is dropped, and its blocks are freed after that.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pagecli.core.step_plan import KVUsage, StepPlan, StepResult
from pagecli.engine.listener import Step, StepTimes
from pagecli.engine.request import Request, Sequence
from pagecli.engine.scheduling.scheduler import Committed, Scheduler

PLACEHOLDER = 0
# Newcomers are gathered until so many sequences have left as a share of the batch, and no longer than so many steps.
GATHERED_SHARE, MOST_STEPS_GATHERING = 1 / 16, 8


class MemoryIsShort(Exception):
    """A request must be preempted, and a pending step may still write the blocks it holds: that step is to be committed."""


def feeding_rows(plan: StepPlan, live: list[Sequence | None]) -> Iterator[tuple[Sequence, int]]:
    """(sequence, row among the plan's chosen tokens) (beams' candidates are none), of sequences that it chooses one token for.

    Sequences that fork, beams, and those whose next choice the token restricts have no next step before commit(): the step
    planned meanwhile leaves them out. `live`: each chunk's sequence; None where it has ended.
    """
    row = 0
    for sequence, specs in zip(live, plan.columns.specs, strict=True):
        if specs and specs[0].num_candidates == 0:
            if sequence is not None and len(specs) == 1 and not specs[0].needs_last_token:
                yield sequence, row
            row += len(specs)


class OverlappedScheduler(Scheduler):
    """A Scheduler that can plan a step while one is pending, and assumes that one's tokens computed.

    plan(), launch; assume_computed(), plan_next(), launch, commit() of the first; assume_computed() of the second, and so on.
    """

    def __init__(self, *args: Any) -> None:
        """As Scheduler."""
        super().__init__(*args)
        self._assumed: StepPlan | None = None  # the plan whose tokens are assumed computed
        self._expected: dict[Sequence, int] = {}  # sequences with a placeholder -> row that they are fed from
        self._num_ending = 0  # sequences whose last token is pending, whatever it is
        self._pending: list[tuple[StepPlan, set[int]]] = []  # plan, its seq_ids: at most two, oldest first
        self._to_free: list[int] = []  # seq_ids whose blocks a pending step may still write
        self.gathers = False  # whether steps that only decode cost less, as from graphs: newcomers then come together
        self._num_after_admission = 0  # sequences when no further newcomer fitted; 0: one may fit
        self._num_steps_gathering = 0

    def assume_computed(self, plan: StepPlan) -> KVUsage:
        """Take the launched step's tokens for computed: what it reads is known, so blocks that it fills can be shared."""
        if self._steady is not None and (planned := self._steady.planned(plan)) is not None:
            self._expected, num_ending = self._steady.assume_computed(planned, self.kv, PLACEHOLDER)
            self._num_ending += num_ending
            self._steady = self._steady.remaining()
        else:
            self._assume_each(plan)
        self._add_pending(plan)
        self._assumed = plan
        return self.kv.snapshot()

    def _assume_each(self, plan: StepPlan) -> None:
        """As assume_computed, one sequence after the other."""
        live = self._live(plan)
        self._record_computed(plan, live)
        for sequence, row in feeding_rows(plan, live):
            sequence.token_ids.append(PLACEHOLDER)
            self._expected[sequence] = row
            self._num_ending += len(sequence.token_ids) >= sequence.request.max_num_tokens

    def plan_next(self) -> StepPlan | None:
        """The step after the one assumed computed. None if that one's results are needed first: memory is short, and the blocks
        of a sequence in a pending step cannot be taken away."""
        try:
            plan = self.plan()
        except MemoryIsShort:  # the slots reserved so far stay reserved; the next plan() uses them
            return None
        if plan.num_tokens:
            self._add_pending(plan)
        return plan

    def is_wanted(self, plan: StepPlan) -> bool:
        """Whether a sequence in the plan still runs."""
        return (self._steady is not None and self._steady.planned(plan) is not None) or any(self._live(plan))

    def commit(self, plan: StepPlan, results: list[StepResult]) -> Committed:
        """As Scheduler.commit; the tokens replace the placeholders of the plan's sequences."""
        finished = None
        if self._steady is not None:
            finished = self._commit_steady(self._steady, plan, results, self._assumed is plan)
        if finished is None:
            finished = self._commit_each(plan, results)
        self._pending = [(known, seq_ids) for known, seq_ids in self._pending if known is not plan]
        if self._assumed is plan:
            self._assumed = None
            self._expected.clear()  # what is left belongs to sequences that ended
            self._num_ending = 0
        self._free_waiting()
        return Committed(finished, self.kv.snapshot(), plan)

    def _commit_each(self, plan: StepPlan, results: list[StepResult]) -> list[Request]:
        """As commit, one sequence after the other; returns the requests that finished."""
        live = self._live(plan)
        if self._assumed is not plan:
            self._record_computed(plan, live)
        if expected := self._expected:
            for sequence, specs in zip(live, plan.columns.specs, strict=True):
                if sequence is not None and specs and expected.pop(sequence, None) is not None:
                    sequence.token_ids.pop()
        finished = self._record_chosen(plan, results, live)
        if self._steady is not None:  # of the step planned meanwhile
            self._steady.drop_ended()
            self._steady = self._steady.remaining()
        return finished

    def reset(self) -> None:
        """As Scheduler.reset; no step is pending any more, and no placeholder will be replaced."""
        self._pending.clear()
        self._assumed = None
        for sequence in list(self._expected):
            self._drop_placeholder(sequence)
        self._num_ending = 0
        self._free_waiting()
        super().reset()

    def _plan_of(self, lengths: dict[Sequence, int]) -> StepPlan:
        """A placeholder is its sequence's last token: the device puts the token there."""
        plan = super()._plan_of(lengths)
        if not self._expected:
            return plan
        feeds, row, expected = [], 0, self._expected
        for sequence, num_tokens in lengths.items():
            row += num_tokens
            fed_from = expected.get(sequence)
            if fed_from is not None:
                feeds.append((row - 1, fed_from))
        return replace(plan, feeds=feeds)

    def _admit(self, lengths: dict[Sequence, int], budget: int, behind: list[Request]) -> None:
        """As Batch._admit; newcomers wait for each other while the batch is nearly full, unless the step has prompts anyway."""
        self.full = not behind and self._is_gathering()
        if self.full:
            return
        super()._admit(lengths, budget, behind)
        self._num_after_admission = self._num_sequences_taken() if self.full else 0
        self._num_steps_gathering = 0

    def _is_gathering(self) -> bool:
        if not (self.gathers and self._running and self._num_after_admission):
            return False
        self._num_steps_gathering += 1
        num_left = self._num_after_admission - self._num_sequences_taken()
        return num_left < GATHERED_SHARE * self._num_after_admission and self._num_steps_gathering < MOST_STEPS_GATHERING

    def _split_running(self) -> tuple[list[Sequence], list[Request]]:
        decoding, behind = super()._split_running()
        return [s for s in decoding if not self._sits_out(s)] if self._num_ending else decoding, behind

    def _sits_out(self, sequence: Sequence) -> bool:
        """Whether the pending token is the sequence's last, whatever it is."""
        return sequence in self._expected and len(sequence.token_ids) >= sequence.request.max_num_tokens

    def _num_sequences_taken(self) -> int:
        num_taken = super()._num_sequences_taken()
        return num_taken - self._num_ending if self._steady is None else num_taken  # those that end have left the steady batch

    def _before_preempting(self) -> None:
        if self._pending:
            raise MemoryIsShort

    def _free(self, seq_id: int) -> None:
        """Free the sequence's blocks, as soon as no pending step may write them."""
        if any(seq_id in seq_ids for _, seq_ids in self._pending):
            self._to_free.append(seq_id)
        else:
            self.kv.free(seq_id)

    def _free_waiting(self) -> None:
        waiting, self._to_free = self._to_free, []
        for seq_id in waiting:
            self._free(seq_id)

    def _drop_placeholder(self, sequence: Sequence) -> None:
        if self._expected.pop(sequence, None) is not None:
            sequence.token_ids.pop()

    def _add_pending(self, plan: StepPlan) -> None:
        """Add the plan to the pending ones: its sequences' blocks are not freed before it is committed."""
        if all(known is not plan for known, _ in self._pending):
            self._pending.append((plan, set(plan.seq_ids)))


@dataclass(slots=True)
class _Launched:
    plan: StepPlan
    pending: Any  # the runner's own
    started: float
    planned: float
    is_computed: bool = False  # its tokens were assumed computed, and counted


class OverlappedLoop:
    """Runs the scheduler's steps; where possible, launches the next one while a step is pending."""

    def __init__(self, scheduler: OverlappedScheduler, runner: Any, count: Callable[[StepPlan, KVUsage], None]) -> None:
        """`count`: called when a plan's tokens are computed, or assumed so, and nothing is reserved for a later step."""
        self._scheduler = scheduler
        self._runner = runner
        self._count = count
        self._next: _Launched | None = None  # launched while the step before it was pending
        self._last_end = 0.0

    def step(self) -> Step | None:
        """Commit one step, the next one launched meanwhile; None if there was nothing to run. Raises what the runner raises."""
        launched, self._next = self._next or self._launch(), None
        if launched is None:
            return None
        if self._runner.can_pipeline(launched.plan):
            self._count(launched.plan, self._scheduler.assume_computed(launched.plan))
            launched.is_computed = True
            self._next = self._launch(after_pending=True)
        results = self._runner.collect(launched.pending)
        prepared, forwarded, sampled = self._runner.times
        committed = self._scheduler.commit(launched.plan, results)
        ended = time.perf_counter()
        if not launched.is_computed:
            self._count(launched.plan, committed.memory)
        self._scheduler.release_finished()
        if committed.finished:
            self.drop_unwanted()
        times = StepTimes(launched.started, launched.planned, prepared, forwarded, sampled, ended)
        return Step(launched.plan, committed.finished, self._without_overlap(times))

    def drop_unwanted(self) -> None:
        """Collect the next step at once if all its sequences have ended; its tokens are dropped and not counted."""
        launched = self._next
        if launched is not None and not self._scheduler.is_wanted(launched.plan):
            self._next = None
            self._scheduler.commit(launched.plan, self._runner.collect(launched.pending))

    def reset(self) -> None:
        """After a step that failed: no step is pending any more."""
        self._next = None

    def _launch(self, after_pending: bool = False) -> _Launched | None:
        """Plan and launch a step; None if there is nothing to run, or not yet."""
        started = time.perf_counter()
        plan = self._scheduler.plan_next() if after_pending else self._scheduler.plan()
        planned = time.perf_counter()
        if plan is None:
            return None
        if not plan.num_tokens:
            self._runner.mover.carry_out(plan.moves)
            return None
        return _Launched(plan, self._runner.launch(plan), started, planned)

    def _without_overlap(self, times: StepTimes) -> StepTimes:
        """The step's times without those that overlap the step before it."""
        shown = StepTimes(*(max(self._last_end, at) for at in times))
        self._last_end = shown.committed
        return shown
