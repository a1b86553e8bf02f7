"""Continuous batching: which sequences run in the next step, with how many tokens, and which are preempted.

There are no phases. Every sequence has known tokens and computed tokens, and a step lets the computed ones catch up: a decode
is a sequence one token behind, a prefill chunk one further behind, one with a cached prefix starts with computed tokens, and a
preempted one starts again at zero (Yu et al., OSDI 2022: iteration-level scheduling; Kwon et al., SOSP 2023, section 4.5: all
sequences of a request preempted together, last in first preempted, by recomputation or by swapping).
State changes in two places: plan() reserves, commit() records. Where steps overlap: engine/overlapped.py.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pagecli.core.step_plan import Chunk, DraftResult, KVUsage, SampleSpec, ScoreResult, StepPlan, StepResult, make_chunk
from pagecli.engine.generation import decoding
from pagecli.engine.generation.decoding import FinishCheck
from pagecli.engine.request import Request, Sequence
from pagecli.engine.scheduling.batch import Batch, SchedulerLimits

if TYPE_CHECKING:
    from pagecli.engine.generation.drafts import Drafter
    from pagecli.engine.scheduling.reservations import Reservations
    from pagecli.engine.scheduling.steady import SteadyBatch
    from pagecli.kv.memory import KVMemory

LEAST_STEADY = 8  # sequences that are planned all at once while they only decode; fewer gain nothing by it


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of a commit: the requests that finished in the step, and the KV memory before they release theirs."""

    finished: list[Request]
    memory: KVUsage
    plan: StepPlan  # without the drafts that did not hold


class Scheduler(Batch):
    """Plans steps of the batch and commits what they computed."""

    def __init__(
        self, kv: "KVMemory", limits: SchedulerLimits, finish_check: FinishCheck, reservations: "Reservations | None" = None
    ) -> None:
        super().__init__(kv, limits, reservations)
        self._finish_check = finish_check
        self.drafter: Drafter | None = None  # guesses tokens where few sequences run
        self.least_steady = LEAST_STEADY

    def add(self, request: Request) -> None:
        request.end_ids = self._finish_check.end_ids(request.params)
        super().add(request)

    def plan(self) -> StepPlan:
        """Reserve blocks for the next step and say what it runs: decodes, then requests that catch up, then newcomers."""
        if self._steady is not None and (steady_plan := self._plan_steady(self._steady)) is not None:
            return steady_plan
        num_preemptions = self.preemptions.count
        decoding, behind = self._split_running()
        lengths = self._reserve_decodes(decoding)
        budget = self.limits.max_batch_tokens - len(lengths)
        for request in behind:
            budget -= self._schedule(request, budget, lengths)
        self.full = False
        if self._waiting.num_requests and self.preemptions.count == num_preemptions:
            self._admit(lengths, budget, behind)
        if self.limits.check_integrity:
            self.kv.check_integrity()
        plan = self._plan_of(lengths)
        # Those that were behind take their own places in the next step.
        return plan if behind or len(lengths) < self.least_steady else self._begin_steady(plan, lengths)

    def _plan_steady(self, steady: "SteadyBatch") -> StepPlan | None:
        """The next step of sequences that only decode, and of newcomers; None, and nothing is reserved, where it is planned one
        sequence after the other."""
        self._steady = None
        growing = steady.growing(self.kv.block_size)
        is_drafted = self.drafter is not None and len(steady) <= self.drafter.max_sequences
        if is_drafted or not steady.is_as_kept() or (growing and not self.kv.reserve_next(growing)):
            return None
        self._steady, self.full = steady, False
        lengths: dict[Sequence, int] = {}
        if self._waiting.num_requests:
            self._admit(lengths, self.limits.max_batch_tokens - len(steady), [])
        if self.limits.check_integrity:
            self.kv.check_integrity()
        if self._steady is None:  # a newcomer entered
            return self._plan_of(dict.fromkeys(steady.sequences, 1) | lengths)
        return steady.plan(self.kv)

    def _begin_steady(self, plan: StepPlan, lengths: dict[Sequence, int]) -> StepPlan:
        """The plan; the steps after it are planned all at once, if all that run do nothing but decode."""
        if len(lengths) == plan.num_tokens == self._num_sequences_taken() and not plan.has_wanted:
            from pagecli.engine.scheduling import steady

            self._steady = steady.begin(plan, list(lengths))
        return plan

    def _split_running(self) -> tuple[list[Sequence], list[Request]]:
        """(sequences that are one token behind, of requests without one that is further; the other requests)."""
        decoding: list[Sequence] = []
        behind: list[Request] = []
        for request in self._running:
            live = request.live
            if len(live) == 1:
                sequence = live[0]
                num_uncomputed = len(sequence.token_ids) - sequence.num_computed
                if num_uncomputed == 1:
                    decoding.append(sequence)
                elif num_uncomputed:
                    behind.append(request)
            elif all(s.num_uncomputed <= 1 for s in live):
                decoding += [s for s in live if s.num_uncomputed]
            else:
                behind.append(request)
        return decoding, behind

    def _reserve_decodes(self, decoding: list[Sequence]) -> dict[Sequence, int]:
        """Reserve a slot for each of the sequences, oldest first, preempting the youngest requests where blocks lack."""
        if self.kv.reserve_next([s.seq_id for s in decoding]):
            return dict.fromkeys(decoding, 1)
        lengths: dict[Sequence, int] = {}
        for sequence in decoding:
            if sequence.request.running and self._reserve_or_preempt(sequence, 1, lengths):
                lengths[sequence] = 1
        return lengths

    def _plan_of(self, lengths: dict[Sequence, int]) -> StepPlan:
        """The step that runs so many tokens of each sequence."""
        chunks, has_wanted = self._chunks(lengths), False
        if self.has_scores:
            chunks, has_wanted = self._with_scores(chunks, lengths)
        if self.drafter is not None and len(chunks) <= self.drafter.max_sequences:
            chunks, has_wanted = self._with_drafts(self.drafter, chunks, lengths)
        adapters = [sequence.request.adapter for sequence in lengths] if self.has_adapters else ()
        return StepPlan(chunks, self.kv.take_moves(), memory=self.kv.snapshot(), has_wanted=has_wanted, adapters=adapters)

    def _with_scores(self, chunks: list[Chunk], lengths: dict[Sequence, int]) -> tuple[list[Chunk], bool]:
        """The step's chunks with what they are to score, and whether there is any."""
        from pagecli.engine.generation import scoring

        chunks = [scoring.with_wanted(sequence, chunk) for sequence, chunk in zip(lengths, chunks, strict=True)]
        self._num_scores_left = self.limits.max_scores
        return chunks, any(chunk.wanted is not None for chunk in chunks)

    def _with_drafts(self, drafter: "Drafter", chunks: list[Chunk], lengths: dict[Sequence, int]) -> tuple[list[Chunk], bool]:
        """The step's chunks with the drafts behind them, as far as the step takes more tokens, and whether any want logits."""
        budget = self.limits.max_batch_tokens - sum(lengths.values())
        found = []
        for sequence, chunk in zip(lengths, chunks, strict=True):
            room = min(budget, sequence.request.max_num_tokens - len(sequence.token_ids) - 1)
            draft_ids = drafter.propose(sequence, room) if room > 0 and chunk.may_have_drafts else []
            if draft_ids:
                from pagecli.engine.generation import drafts

                chunk = drafts.with_drafts(sequence, chunk, draft_ids, self.kv, self._finish_check)
                budget -= len(draft_ids)
            found.append(chunk)
        return found, any(chunk.wanted is not None for chunk in found)

    def _live(self, plan: StepPlan) -> list[Sequence | None]:
        """The sequence of each of the plan's chunks; None where it ended after the plan was made."""
        return list(map({s.seq_id: s for request in self._running for s in request.live}.get, plan.seq_ids))

    def _record_computed(self, plan: StepPlan, live: list[Sequence | None]) -> None:
        """The plan's tokens are in the cache; not those of sequences that ended after it was made. `live`: as of _live."""
        lengths = [c.num_known for c in plan.chunks] if plan.has_wanted else map(len, plan.columns.token_ids)
        filled = []
        for sequence, start, num_tokens in zip(live, plan.columns.start, lengths, strict=True):
            if sequence is not None:
                sequence.num_computed = num_filled = start + num_tokens
                filled.append((sequence.seq_id, num_filled, sequence.token_ids))
        self.kv.record_filled(filled)

    def commit(self, plan: StepPlan, results: list[StepResult]) -> Committed:
        """Record what the step computed and chose: one result for each chunk that samples, in order."""
        if self._steady is not None and (ended := self._commit_steady(self._steady, plan, results)) is not None:
            return Committed(ended, self.kv.snapshot(), plan)
        live = self._live(plan)
        self._record_computed(plan, live)
        finished = self._record_chosen(plan, results, live)
        return Committed(finished, self.kv.snapshot(), plan if not plan.has_wanted else self._without_rejected(plan, live))

    def _commit_steady(
        self, steady: "SteadyBatch", plan: StepPlan, results: list[StepResult], assumed: bool = False
    ) -> list[Request] | None:
        """As `commit` of a step of sequences that only decode; None, and nothing is recorded, where it is none, or one has no
        token. `assumed`: the tokens are computed, and have placeholders."""
        planned = steady.take(plan)
        if planned is None:
            return None
        finished = steady.commit(planned, results, self.kv, self._finish_check, assumed)
        self._steady = None if finished is None else steady.remaining()
        return finished

    def _record_chosen(self, plan: StepPlan, results: list[StepResult], live: list[Sequence | None]) -> list[Request]:
        """Extend, fork and finish sequences by the step's results; returns the requests that finished.

        A token chosen for a sequence that has ended since the plan was made is dropped.
        """
        finished: dict[Request, None] = {}
        chunks, has_wanted, kv, finish_check = plan.answered, plan.has_wanted, self.kv, self._finish_check
        if chunks is not plan.chunks:
            live = [s for s, chunk in zip(live, plan.chunks, strict=True) if chunk.specs or chunk.wanted is not None]
        for sequence, chunk, result in zip(live, chunks, results, strict=True):
            if sequence is None:
                continue
            if has_wanted:
                self._apply_wanted(sequence, chunk, result)
            else:
                decoding.apply(sequence, result, kv, finish_check)
            if not sequence.request.live:
                finished[sequence.request] = None
        return list(finished)

    def _apply_wanted(self, sequence: Sequence, chunk: Chunk, result: StepResult) -> None:
        """As decoding.apply, in a step with scores or drafts."""
        from pagecli.engine.generation import drafts, scoring

        if isinstance(result, ScoreResult):
            scoring.apply(sequence, result, self.kv, self._finish_check)
        elif isinstance(result, DraftResult):
            num_accepted = drafts.apply(sequence, chunk, result, self.kv, self._finish_check)
            if self.drafter is not None:
                self.drafter.record(sequence, chunk.context_len - chunk.start - chunk.num_known, num_accepted)
        else:
            decoding.apply(sequence, result, self.kv, self._finish_check)

    def _without_rejected(self, plan: StepPlan, live: list[Sequence | None]) -> StepPlan:
        """A committed plan with those drafts that held."""
        from pagecli.engine.generation import drafts

        pairs = zip(live, plan.chunks, strict=True)
        chunks = [chunk if sequence is None else drafts.accepted_part(sequence, chunk) for sequence, chunk in pairs]
        return StepPlan(chunks, plan.moves, plan.feeds, plan.memory, plan.has_wanted)

    def reset(self) -> None:
        """After a step that failed: every request starts again from the tokens it knows. No block is trusted, as the failed
        step may have been about to fill or move it."""
        self._steady = None
        while self._running:
            request = self._running.pop()
            request.running = False
            self._waiting.put_back(request)
        for request in self._waiting.preempted():
            self._drop_computed(request)
        self._release_ended()
        self.kv.forget_contents()
        self.kv.take_moves()

    def release_finished(self) -> None:
        """Free the blocks of sequences that finished or were dropped, after the step has been recorded."""
        if self._steady is not None and self._steady.all_stay:
            return
        for request in [r for r in self._running if r.leaving]:
            for sequence in request.leaving:
                if self.limits.batching == "static" and (request.finished or sequence.finish_reason is not None):
                    self._ended.append(sequence)
                else:
                    self._free(sequence.seq_id)
                    self.full = False
            request.leaving.clear()
        self._running = [r for r in self._running if r.live]
        if not self._running:
            self._release_ended()

    def _schedule(self, request: Request, budget: int, lengths: dict[Sequence, int]) -> int:
        """Reserve the request's part of the step, preempting younger ones for it; returns its tokens, 0 if it was preempted."""
        used = 0
        for sequence in list(request.live):
            if not request.running:
                return 0
            if self._sits_out(sequence) or not self._ready(sequence):
                continue
            num_tokens = self._num_to_run(sequence, budget - used)
            if num_tokens > 0 and self._reserve_or_preempt(sequence, num_tokens, lengths):
                lengths[sequence] = num_tokens
                used += num_tokens
        return used if request.running else 0

    def _sits_out(self, sequence: Sequence) -> bool:
        """Whether the sequence is to stay out of the next step."""
        return False

    def _reserve_or_preempt(self, sequence: Sequence, num_tokens: int, lengths: dict[Sequence, int]) -> bool:
        """Reserve slots for the sequence's next tokens, preempting the youngest for them; False if that was its own request."""
        while not self.kv.reserve(sequence.seq_id, sequence.num_computed + num_tokens):
            self._before_preempting()
            if self._ended:  # no request is preempted for a sequence that has ended
                self._release_ended()
                continue
            victim = self._running.pop()
            for member in victim.live:
                lengths.pop(member, None)
            self._preempt(victim)
            if victim is sequence.request:
                return False
        return True

    def _before_preempting(self) -> None:
        """Hook, called before a running request is preempted or an ended sequence loses its memory."""

    def _chunks(self, lengths: dict[Sequence, int]) -> list[Chunk]:
        """A chunk of so many tokens of each sequence, in order."""
        chunks, finish_check = [], self._finish_check
        tables = self.kv.block_tables([s.seq_id for s in lengths])
        for (sequence, num_tokens), block_ids in zip(lengths.items(), tables, strict=True):
            start, token_ids = sequence.num_computed, sequence.token_ids
            end = start + num_tokens
            specs: tuple[SampleSpec, ...] = ()
            if end == len(token_ids):
                specs = sequence.specs or decoding.specs(sequence, finish_check)
            num_repeated = min(end, sequence.num_lost) - start if start < sequence.num_lost else 0
            fields = (sequence.seq_id, token_ids[start:end], start, block_ids, specs, num_repeated, None)
            chunks.append(make_chunk(fields))
        return chunks
