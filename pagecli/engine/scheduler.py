"""Continuous batching: which sequences run in the next step, with how many tokens, and who is preempted when blocks run out.

There are no phases. Every sequence has known tokens and computed tokens, and a step lets the computed ones catch up: a decode
is a sequence one token behind, a prefill chunk one further behind, and a preempted sequence one that fell back to zero
(Yu et al., OSDI 2022: iteration-level scheduling; Kwon et al., SOSP 2023, section 4.5: preemption by recomputation, last
in first preempted). State changes in two places: plan() reserves, commit() records.
"""

from collections import deque
from collections.abc import Callable

from pagecli.engine.request import Request, Sequence
from pagecli.engine.step_plan import Chunk, SampledToken, SampleSpec, StepPlan
from pagecli.kv.manager import KVManager

WATERMARK = 0.01  # share of the blocks kept free at admission, so that the newcomer does not preempt at once


class Scheduler:
    """Keeps the waiting and the running sequences. `finish_check(sequence)` sets `finish_reason` after each new token."""

    def __init__(
        self,
        kv: KVManager,
        max_num_seqs: int,
        max_batch_tokens: int,
        finish_check: Callable[[Sequence], None],
        eos_token_ids: tuple[int, ...] = (),
    ) -> None:
        self.kv = kv
        self.max_num_seqs = max_num_seqs
        self.max_batch_tokens = max_batch_tokens
        self.num_preemptions = 0
        self.num_recomputed_tokens = 0
        self._finish_check = finish_check
        self._eos_token_ids = eos_token_ids
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in order of admission: the last one is preempted first
        self._watermark = max(1, int(WATERMARK * kv.pool.num_blocks))

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, request: Request) -> None:
        """Queue the request. The caller has checked that each of its sequences fits into the empty pool."""
        self._waiting.extend(request.sequences)

    def abort(self, request: Request) -> None:
        """Forget the request's sequences and free their blocks."""
        for sequence in request.sequences:
            if sequence.finish_reason is None:
                (self._running if sequence.running else self._waiting).remove(sequence)
                self.kv.free(sequence.seq_id)

    def plan(self) -> StepPlan:
        """Reserve blocks for the next step and say what it runs: decodes, then prefill chunks, then newcomers."""
        num_preemptions = self.num_preemptions
        lengths: dict[Sequence, int] = {}
        budget = self.max_batch_tokens
        decoding = [s for s in self._running if s.num_uncomputed == 1]
        prefilling = [s for s in self._running if s.num_uncomputed > 1]
        for sequence in decoding + prefilling:
            num_tokens = min(sequence.num_uncomputed, budget)
            if num_tokens > 0 and self._reserve_or_preempt(sequence, num_tokens, lengths):
                lengths[sequence] = num_tokens
                budget -= num_tokens
        if self.num_preemptions == num_preemptions:
            self._admit(lengths, budget)
        return StepPlan([self._chunk(sequence, n) for sequence, n in lengths.items()])

    def commit(self, plan: StepPlan, sampled: list[SampledToken]) -> list[Request]:
        """Record what the step computed and sampled (one token for each chunk with a spec, in order). Returns who finished."""
        by_id = {s.seq_id: s for s in self._running}
        tokens = iter(sampled)
        finished = []
        for chunk in plan.chunks:
            sequence = by_id[chunk.seq_id]
            sequence.num_computed = chunk.context_len
            self.kv.record_filled(chunk.seq_id, chunk.context_len)
            if chunk.spec is None:
                continue
            token = next(tokens)
            sequence.token_ids.append(token.token_id)
            if token.logprobs is not None:
                sequence.logprobs.append(token.logprobs)
            self._finish_check(sequence)
            if sequence.finish_reason is not None and sequence.request.finished:
                finished.append(sequence.request)
        return finished

    def release_finished(self) -> None:
        """Take finished sequences out of the batch and free their blocks; after the step has been recorded."""
        for sequence in self._running:
            if sequence.finish_reason is not None:
                self.kv.free(sequence.seq_id)
        self._running = [s for s in self._running if s.finish_reason is None]

    def _reserve_or_preempt(self, sequence: Sequence, num_tokens: int, lengths: dict[Sequence, int]) -> bool:
        """Reserve slots for the sequence's next tokens, preempting the youngest for them; False if that was itself."""
        if not sequence.running:
            return False  # preempted earlier in this plan
        while not self.kv.reserve(sequence.seq_id, sequence.num_computed + num_tokens):
            victim = self._running.pop()
            lengths.pop(victim, None)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        self.num_recomputed_tokens += sequence.num_computed
        self.kv.free(sequence.seq_id)
        sequence.num_computed = 0
        sequence.running = False
        self._waiting.appendleft(sequence)

    def _admit(self, lengths: dict[Sequence, int], budget: int) -> None:
        """Start waiting sequences, first come first served, while all they know fits beside what is promised already."""
        prefilling = [s for s in self._running if s.num_uncomputed > 1]
        promised = sum(self.kv.num_blocks_for(s.num_tokens) - len(self.kv.block_table(s.seq_id)) for s in prefilling)
        while self._waiting and budget > 0 and len(self._running) < self.max_num_seqs:
            sequence = self._waiting[0]
            needed = self.kv.num_blocks_for(sequence.num_tokens)
            spare = self.kv.num_free_blocks - promised - needed
            if spare < (self._watermark if self._running else 0):
                return
            num_tokens = min(sequence.num_uncomputed, budget)
            if not self.kv.reserve(sequence.seq_id, num_tokens):
                return
            promised += needed - self.kv.num_blocks_for(num_tokens)
            self._running.append(self._waiting.popleft())
            sequence.running = True
            lengths[sequence] = num_tokens
            budget -= num_tokens

    def _chunk(self, sequence: Sequence, num_tokens: int) -> Chunk:
        start = sequence.num_computed
        spec = self._sample_spec(sequence) if num_tokens == sequence.num_uncomputed else None
        token_ids = sequence.token_ids[start : start + num_tokens]
        return Chunk(sequence.seq_id, token_ids, start, self.kv.block_table(sequence.seq_id), spec)

    def _sample_spec(self, sequence: Sequence) -> SampleSpec:
        request = sequence.request
        forbidden: tuple[int, ...] = ()
        if sequence.num_output_tokens < request.params.min_tokens:
            forbidden = (() if request.params.ignore_eos else self._eos_token_ids) + request.params.stop_token_ids
        return SampleSpec(
            request.params, request.row_key, sequence.sample, sequence.token_ids, request.num_prompt_tokens, forbidden
        )
