"""One replay: the engine's own scheduler and KV manager on a clock of modelled steps. Only the model is missing.

Between two steps in which a sequence enters, leaves or is preempted, every sequence decodes one token a step and nothing else
changes. The clock skips ahead over such steps: it gives each sequence k - 1 more tokens, and the scheduler, to which a sequence
k tokens behind is a chunk like any other, plans and commits one step of k tokens each. Steps, times and sums of slots are those
of single steps (tests/profiler/test_replay.py runs both).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pagecli.core.engine_config import Batching, KVPolicy
from pagecli.core.step_plan import NO_TOKEN, Chunk, SampledToken, StepPlan, StepResult
from pagecli.engine.generation.decoding import FinishCheck, start_beam_search
from pagecli.engine.request import Request, Sequence
from pagecli.engine.scheduling.batch import SchedulerLimits
from pagecli.engine.scheduling.reservations import Reservations
from pagecli.engine.scheduling.scheduler import Scheduler
from pagecli.kv.baselines.reserved_manager import ReservedManager
from pagecli.kv.manager import KVManager
from pagecli.kv.memory import KVMemory
from pagecli.profiler.replay.slot_ledger import SlotLedger, SlotSums

MOST_AT_ONCE = 4096  # decode steps


class StepTimer(Protocol):
    """How long a step takes (profiler/plan/roofline.py)."""

    def seconds(self, num_tokens, num_sequences, context_tokens, attention_pairs):  # type: ignore[no-untyped-def]
        """Seconds of a step, for numbers or numpy arrays."""
        ...


@dataclass(frozen=True, slots=True)
class ReplayCase:
    """A memory policy under one way of batching."""

    policy: KVPolicy
    batching: Batching = "continuous"
    prefix_caching: bool = False


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """Settings shared by all cases of a replay."""

    num_slots: int  # of the KV cache
    reserved_len: int = 2048  # what reserve-max holds for a sequence: the longest there may be
    block_size: int = 16  # of the paged policy; the others divide memory by the slot
    max_num_seqs: int = 256
    max_batch_tokens: int = 2048
    fast_forward: bool = True


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it comes."""

    seconds: float
    request: Request


class ReplayClock:
    """Runs requests to their end. `total` sums over all steps, `steady` over the steady part (None: there was none).

    The steady part begins when a quarter of the requests have finished and ends when the last one enters the batch: before, the
    batch fills up; after, it runs dry.
    """

    def __init__(self, case: ReplayCase, settings: ReplaySettings, timer: StepTimer) -> None:
        self.case = case
        self.settings = settings
        self.block_size = settings.block_size if case.policy == "paged" else 1
        self.num_slots = settings.num_slots // self.block_size * self.block_size
        kv, reservations = self._memory()
        self._limits = SchedulerLimits(settings.max_num_seqs, settings.max_batch_tokens, batching=case.batching)
        self.finish_check = FinishCheck(frozenset())
        self.scheduler = Scheduler(kv, self._limits, self.finish_check, reservations)
        self.ledger = SlotLedger(self.scheduler)
        self.seconds = 0.0
        self._idle_seconds = 0.0
        self.num_finished = 0
        self.steady: SlotSums | None = None
        self._timer = timer
        self._settled = True  # no fork in the step before: all copies on write are done

    def _memory(self) -> tuple[KVMemory, Reservations | None]:
        num_blocks = self.num_slots // self.block_size
        if self.case.policy == "paged":
            return KVManager(num_blocks, self.block_size, self.case.prefix_caching), None
        kv = ReservedManager(num_blocks, 1)
        return kv, Reservations(kv, self.case.policy, self.settings.reserved_len)

    @property
    def total(self) -> SlotSums:
        self.ledger.sums.seconds = self.seconds - self._idle_seconds
        return self.ledger.sums

    def run(self, arrivals: list[Arrival]) -> None:
        """Run all of them; each must fit into the empty cache. `arrivals` are in order of time."""
        warm = -(-len(arrivals) // 4)
        begun: SlotSums | None = None
        at = 0
        with _no_collection():
            while at < len(arrivals) or self.scheduler.num_waiting or self.scheduler.running:
                while at < len(arrivals) and arrivals[at].seconds <= self.seconds:
                    if arrivals[at].request.params.beam_width > 1:
                        start_beam_search(arrivals[at].request, self.finish_check)
                    self.scheduler.add(arrivals[at].request)
                    at += 1
                if begun is None and self.num_finished >= warm:
                    begun = self.total.copy()
                if begun is not None and self.steady is None and at == len(arrivals) and not self.scheduler.num_waiting:
                    self.steady = self.total.since(begun)
                next_arrival = arrivals[at].seconds if at < len(arrivals) else None
                if not self.scheduler.running and not self.scheduler.num_waiting:
                    assert next_arrival is not None
                    self._idle_seconds += next_arrival - self.seconds
                    self.seconds = next_arrival
                elif not (self.settings.fast_forward and self._fast_forward(next_arrival)):
                    self._step()

    def _step(self) -> None:
        plan = self.scheduler.plan()
        assert plan.chunks, "a step without work while requests wait"
        self.planned()
        num_samples = sum(len(chunk.specs) for chunk in plan.chunks)
        context = sum(chunk.context_len for chunk in plan.chunks)
        pairs = sum(attention_pairs(chunk.start, len(chunk.token_ids)) for chunk in plan.chunks)
        num_sampled = sum(bool(chunk.specs) for chunk in plan.chunks)
        self.seconds += float(self._timer.seconds(plan.num_tokens, num_sampled, context, pairs))
        self._settled = not any(len(chunk.specs) > 1 for chunk in plan.chunks)
        self._commit(plan)
        self.ledger.add_step()
        self._count(1, len(plan.chunks), num_samples)
        self.scheduler.release_finished()

    def _count(self, num_steps: int, num_sequences: int, num_samples: int) -> None:
        sums = self.ledger.sums
        sums.steps += num_steps
        sums.sequence_steps += num_steps * num_sequences
        sums.output_tokens += num_samples

    def _commit(self, plan: StepPlan) -> None:
        results = [self.choose(chunk) for chunk in plan.chunks if chunk.specs]
        self.num_finished += len(self.scheduler.commit(plan, results).finished)

    def choose(self, chunk: Chunk) -> StepResult:
        """A token that no other sequence has, so that nothing of the output is shared."""
        token_id = _own_token(chunk.seq_id)
        return token_id if len(chunk.specs) == 1 else (SampledToken(token_id),) * len(chunk.specs)

    def planned(self) -> None:
        """A step is about to run; its blocks are reserved."""

    def _fast_forward(self, next_arrival: float | None) -> bool:
        """Take as many decode steps at once as nothing else can happen in; False if that is not at least two."""
        waiting = self.scheduler.num_waiting > 0
        if not self._settled or (waiting and not self.scheduler.full):
            return False
        sequences = [s for request in self.scheduler.running for s in request.live]
        num_steps = MOST_AT_ONCE
        for sequence in sequences:
            if sequence.num_uncomputed != 1 or sequence.request.beam_search is not None:
                return False
            num_steps = min(num_steps, sequence.request.params.max_tokens - sequence.num_output_tokens)
        if num_steps < 2 or len(sequences) > self._limits.max_batch_tokens:
            return False
        before = self.ledger.decode_state(sequences)
        num_steps = min(num_steps, self._steps_with_blocks(before.computed, num_steps))
        if num_steps < 2:
            return False
        times = self._decode_times(len(sequences), int(before.computed.sum()), num_steps)
        if next_arrival is not None and not waiting:
            # The arrival is seen between two steps: those that begin before it are taken.
            num_steps = min(num_steps, int(np.searchsorted(times[1:], next_arrival, side="left")) + 1)
        self._take_decodes(sequences, num_steps)
        self.ledger.add_decodes(before, num_steps)
        self.seconds = float(times[num_steps])
        self._count(num_steps, len(sequences), num_steps * len(sequences))
        self.scheduler.release_finished()
        return True

    def _steps_with_blocks(self, computed: np.ndarray, num_steps: int) -> int:
        """How many of the steps the free blocks allow without a preemption."""
        size, free = self.block_size, self.scheduler.kv.num_free_blocks
        if (
            self.scheduler.reservations is not None
            or int((-(-(computed + num_steps) // size) + computed // -size).sum()) <= free
        ):
            return num_steps
        # A sequence needs a block after -computed mod size steps, and then after every size.
        in_phase = np.bincount(-computed % size, minlength=size)
        needed = np.cumsum(np.resize(in_phase, num_steps))
        return int(np.searchsorted(needed, free, side="right"))

    def _decode_times(self, count: int, computed: int, num_steps: int) -> np.ndarray:
        """[num_steps + 1] the clock now and after each step of `count` sequences that have computed so many tokens."""
        context = np.arange(computed + count, computed + count * num_steps + 1, count)
        times = np.empty(num_steps + 1)
        times[0] = self.seconds
        times[1:] = self._timer.seconds(count, count, context, context)
        return times.cumsum()

    def _take_decodes(self, sequences: list[Sequence], num_steps: int) -> None:
        for sequence in sequences:
            sequence.token_ids.extend([_own_token(sequence.seq_id)] * (num_steps - 1))
        # So many steps together may run so many steps' tokens.
        self.scheduler.limits = replace(self._limits, max_batch_tokens=self._limits.max_batch_tokens * num_steps)
        plan = self.scheduler.plan()
        self.scheduler.limits = self._limits
        assert len(plan.chunks) == len(sequences), "somebody entered or left in steps in which nobody can"
        self._commit(plan)


def _own_token(seq_id: int) -> int:
    """An id that no vocabulary has, and that is not NO_TOKEN."""
    return NO_TOKEN - 1 - seq_id


def attention_pairs(start: int, num_tokens: int) -> int:
    """(token, token it sees) of a chunk: each sees what is before it and itself."""
    return num_tokens * start + num_tokens * (num_tokens + 1) // 2


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable Python's cycle collector, which would traverse all requests repeatedly and find little to free."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
