"""The engine's scheduler, but for one shortcut: it does not walk over sequences that merely decode.

In a step every decoding sequence adds a token, and nobody need look at it until it wants another block, finishes or is
preempted. So such a sequence sleeps: its length is the step's number plus a constant (its phase), the steps at which it wants a
block are those of its phase modulo block_size, and its last step is known. Admission, queue, preemption, reservations and all
blocks are the scheduler's and the KV manager's own. For requests of one sequence that share nothing with others.
"""

import heapq

from pagecli.engine.generation.stopping import FinishCheck
from pagecli.engine.request import Request, Sequence
from pagecli.engine.scheduling.batch import SchedulerLimits
from pagecli.engine.scheduling.reservations import Reservations
from pagecli.engine.scheduling.scheduler import Scheduler
from pagecli.kv.memory import KVMemory
from pagecli.profiler.replay.slot_ledger import final_slots


class SleepingScheduler(Scheduler):
    """Runs steps without plans: step() is plan(), commit() and release_finished() in one. `now` counts steps."""

    def __init__(
        self, kv: KVMemory, limits: SchedulerLimits, finish_check: FinishCheck, reservations: Reservations | None = None
    ) -> None:
        super().__init__(kv, limits, finish_check, reservations)
        self.now = 0
        self.num_sleeping = 0
        self.phase_sum = 0
        self.never_filled = 0  # slots held by sequences that will not fill them
        self._phases: dict[Sequence, int] = {}  # of sleeping sequences: computed tokens - now
        self._by_turn: list[dict[Sequence, None]] = [{} for _ in range(kv.block_size)]  # who wants a block at now % block_size
        self._ends: list[tuple[int, int, Sequence]] = []  # heap of (last step, seq_id, sequence); preempted ones are left in
        self._awake: dict[Request, None] = {}  # running, prompt not computed
        self._ranks: dict[Request, int] = {}  # order of admission
        self._wastes: dict[Sequence, int] = {}  # its part of never_filled
        self._finals: dict[Sequence, int] = {}  # slots it will have filled at its end, of running requests
        self._num_entered = 0

    @property
    def sleeping_tokens(self) -> int:
        """Tokens that sleeping sequences have computed."""
        return self.num_sleeping * self.now + self.phase_sum

    @property
    def num_awake(self) -> int:
        return len(self._awake)

    @property
    def awake_tokens(self) -> int:
        """Tokens that the others have computed."""
        return sum(request.live[0].num_computed for request in self._awake)

    def _num_places_taken(self) -> int:
        return len(self._running)

    def _enter(self, request: Request) -> None:
        super()._enter(request)
        self._num_entered += 1
        self._ranks[request] = self._num_entered
        self._awake[request] = None
        self._finals[request.live[0]] = final_slots(request)
        if self.reservations is not None:
            held = self.kv.num_blocks_for(self.reservations.num_slots(request)) * self.kv.block_size
            self._waste(request.live[0], held - self._finals[request.live[0]])

    def _waste(self, sequence: Sequence, num_slots: int) -> None:
        """Set how many slots the sequence holds in vain."""
        self.never_filled += num_slots - self._wastes.get(sequence, 0)
        self._wastes[sequence] = num_slots

    def _count_tail(self, sequence: Sequence) -> None:
        """A paged sequence has got blocks: past its end, the last one holds slots that it will not fill."""
        if self.reservations is None:
            past_end = len(self.kv.block_table(sequence.seq_id)) * self.kv.block_size - self._finals[sequence]
            if past_end > 0:
                self._waste(sequence, past_end)

    def _sleep(self, sequence: Sequence) -> None:
        phase = sequence.num_computed - self.now
        self._phases[sequence] = phase
        self._by_turn[-phase % self.kv.block_size][sequence] = None
        heapq.heappush(self._ends, (self._finals[sequence] - phase, sequence.seq_id, sequence))
        self.num_sleeping += 1
        self.phase_sum += phase

    def _wake(self, sequence: Sequence) -> None:
        """Make the number of computed tokens that the sequence knows of true again."""
        phase = self._phases.pop(sequence)
        del self._by_turn[-phase % self.kv.block_size][sequence]
        self.num_sleeping -= 1
        self.phase_sum -= phase
        sequence.num_computed = self.now + phase

    def _preempt(self, request: Request) -> None:
        sequence = request.live[0]
        if sequence in self._phases:
            self._wake(sequence)
            sequence.token_ids.extend([0] * (sequence.num_computed + 1 - sequence.num_tokens))  # one more known than computed
        self._awake.pop(request, None)
        self.never_filled -= self._wastes.pop(sequence, 0)
        super()._preempt(request)

    def next_end(self) -> int | None:
        """The step after which the next sleeping sequence finishes."""
        while self._ends:
            end, _, sequence = self._ends[0]
            phase = self._phases.get(sequence)
            if phase is not None and self._finals[sequence] - phase == end:
                return end
            heapq.heappop(self._ends)
        return None

    def reserve_step(self) -> dict[Sequence, int]:
        """Reserve the next step's slots as plan() does; returns the tokens it runs of sequences that are awake."""
        num_preemptions = self.preemptions.count
        lengths: dict[Sequence, int] = {}
        current = [r.live[0] for r in self._awake if r.live[0].num_uncomputed <= 1]
        behind = sorted((r for r in self._awake if r.live[0].num_uncomputed > 1), key=self._ranks.__getitem__)
        wanting = list(self._by_turn[self.now % self.kv.block_size]) if self.reservations is None else []
        for sequence in sorted(wanting + current, key=lambda s: self._ranks[s.request]):
            if sequence.request.running:
                self._reserve_one(sequence, lengths)
        budget = self.limits.max_batch_tokens - self.num_sleeping - len(lengths)
        for request in behind:
            budget -= self._schedule(request, budget, lengths)
        self.full = False
        if len(self._waiting) and self.preemptions.count == num_preemptions:
            self._admit(lengths, budget, behind)
        return lengths

    def _reserve_one(self, sequence: Sequence, lengths: dict[Sequence, int]) -> None:
        asleep = sequence in self._phases
        if asleep:
            sequence.num_computed = self.now + self._phases[sequence]
        elif not self._ready(sequence):
            return
        if self._reserve_or_preempt(sequence, 1, lengths):
            if asleep:
                self._count_tail(sequence)
            else:
                lengths[sequence] = 1

    def commit_step(self, lengths: dict[Sequence, int]) -> None:
        """Record what the step computed: everybody asleep a token, the others theirs; who has computed all it knows sleeps."""
        self.now += 1
        for sequence, num_tokens in lengths.items():
            sequence.num_computed += num_tokens
            self.kv.record_filled(sequence.seq_id, sequence.num_computed, sequence.token_ids)
            self._count_tail(sequence)
            if sequence.num_uncomputed == 0:
                del self._awake[sequence.request]
                self._sleep(sequence)

    def reserve_ahead(self, num_steps: int) -> list[tuple[int, int]]:
        """Reserve slots for so many decode steps, for which blocks suffice: (step from 1, slots in vain) of each new block."""
        size, grown = self.kv.block_size, []
        if self.reservations is not None:
            return []
        for at in range(min(size, num_steps)):
            for sequence in self._by_turn[(self.now + at) % size]:
                blocks = (num_steps - at + size - 1) // size
                reserved = self.kv.reserve(sequence.seq_id, self.now + self._phases[sequence] + num_steps)
                assert reserved, "blocks were counted before, and suffice"
                before = self._wastes.get(sequence, 0)
                self._count_tail(sequence)
                grown += [(at + 1 + i * size, 0) for i in range(blocks - 1)]
                grown.append((at + 1 + (blocks - 1) * size, self._wastes.get(sequence, 0) - before))
        return grown

    def steps_with_blocks(self, num_steps: int) -> int:
        """How many decode steps, at most so many, the free blocks allow without preempting anybody."""
        free = self.kv.num_free_blocks
        if self.reservations is not None or free >= self.num_sleeping * (num_steps // self.kv.block_size + 1):
            return num_steps
        size = self.kv.block_size
        for step in range(num_steps):
            free -= len(self._by_turn[(self.now + step) % size])
            if free < 0:
                return step
        return num_steps

    def release_finished_sleepers(self) -> int:
        """Let the sequences go whose last step is done; returns how many."""
        count = 0
        while (end := self.next_end()) is not None and end <= self.now:
            sequence = heapq.heappop(self._ends)[2]
            self._wake(sequence)
            self._finish(sequence)
            count += 1
        if count:
            self._running = [r for r in self._running if not r.finished]
            if not self._running:
                self._release_ended()
        return count

    def _finish(self, sequence: Sequence) -> None:
        request = sequence.request
        request.live.clear()
        sequence.token_ids.clear()  # of a hundred thousand requests that is memory
        self._ranks.pop(request)
        self._finals.pop(sequence)
        if self.limits.batching == "static":
            held = len(self.kv.block_table(sequence.seq_id)) * self.kv.block_size
            self._waste(sequence, held)
            self._ended.append(sequence)
        else:
            self.never_filled -= self._wastes.pop(sequence, 0)
            self.kv.free(sequence.seq_id)
            self.full = False

    def _release_ended(self) -> None:
        for sequence in self._ended:
            self.never_filled -= self._wastes.pop(sequence, 0)
        super()._release_ended()
