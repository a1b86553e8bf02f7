"""The batch: which waiting requests are admitted, the memory they start with, and which are preempted.

Requests are let in while all they know fits beside what is promised already, preempted ones first, then newcomers in the order
of their prefixes. A preempted request leaves with all its sequences, by recomputation or by swapping (Kwon et al., SOSP 2023,
section 4.5).

Newcomers are taken in groups of bounded size, so that a row is never put off for longer than a group: output in input order
then costs bounded memory. Within a group, requests that share their first block stand together, in the order of their tokens
(longest common prefix order), where the first of them arrived.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pagecli.core.engine_config import Batching
from pagecli.core.step_plan import MAX_SCORES
from pagecli.engine.request import Request, Sequence

if TYPE_CHECKING:
    from pagecli.engine.scheduling.reservations import Reservations
    from pagecli.engine.scheduling.steady import SteadyBatch
    from pagecli.kv.memory import KVMemory

WATERMARK = 0.01  # share of the blocks kept free at admission, so that the newcomer does not preempt at once
MAX_GROUP = 512  # requests of a group
MAX_NAMED = 100  # requests the log names; the sums count all
MAX_DEFERRED = 32  # newcomers passed over in a step because their prefix is being computed


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The limits of a step.

    Batching: continuous lets a newcomer in as soon as there is room. static forms a batch, of all that fit, when the one before
    has ended, and what finished sequences hold is kept until then; none runs one request after the other.
    """

    max_num_seqs: int
    max_batch_tokens: int
    preemption: Literal["recompute", "swap"] = "recompute"
    batching: Batching = "continuous"
    check_integrity: bool = False  # of the KV memory, at every plan
    max_scores: int = MAX_SCORES  # logits of given tokens that a step computes beside those that tokens are chosen from


@dataclass(slots=True)
class PreemptionLog:
    """Sums over the run, and the requests hit hardest by name."""

    count: int = 0
    num_tokens_lost: int = 0  # computed and dropped; what the prefix cache still has need not be computed again
    by_request: dict[int, tuple[int, int]] = field(default_factory=dict)  # request_id -> times, tokens lost

    def record(self, request: Request, tokens_lost: int) -> None:
        """Count a preemption of the request, which dropped so many computed tokens."""
        self.count += 1
        self.num_tokens_lost += tokens_lost
        times, lost = self.by_request.get(request.request_id, (0, 0))
        if request.request_id in self.by_request or len(self.by_request) < MAX_NAMED:
            self.by_request[request.request_id] = (times + 1, lost + tokens_lost)


def by_prefix(requests: list[Request]) -> list[Request]:
    """The requests in longest-common-prefix order; those that share no block keep the order they came in."""
    groups: dict[object, list[Request]] = {}
    for request in requests:
        first = request.prefix_hashes[0] if request.prefix_hashes else request.request_id
        groups.setdefault(first, []).append(request)
    return [r for group in groups.values() for r in sorted(group, key=lambda r: r.prompt_token_ids)]


class WaitingQueue:
    """The waiting requests, in the order of admission."""

    def __init__(self) -> None:
        self._preempted: deque[Request] = deque()
        self._group: list[Request] = []
        self._arrivals: deque[Request] = deque()
        self.num_requests = 0

    def add(self, request: Request) -> None:
        self._arrivals.append(request)
        self.num_requests += 1

    def put_back(self, request: Request) -> None:
        """A preempted request goes before all others: it is older than any newcomer, and than those preempted before it."""
        self._preempted.appendleft(request)
        self.num_requests += 1

    def next_preempted(self) -> Request | None:
        return self._preempted[0] if self._preempted else None

    def preempted(self) -> list[Request]:
        """Those that were put back, in order."""
        return list(self._preempted)

    def newcomers(self) -> Iterator[Request]:
        """The group's requests in order, then the next group's if all were removed; remove() may be called meanwhile."""
        while self._group or self._arrivals:
            if not self._group:
                arrived = [self._arrivals.popleft() for _ in range(min(MAX_GROUP, len(self._arrivals)))]
                self._group = by_prefix(arrived)
            yield from list(self._group)
            if self._group:
                return

    def remove(self, request: Request) -> None:
        for queue in (self._preempted, self._group, self._arrivals):
            if request in queue:
                queue.remove(request)
                self.num_requests -= 1
                return


class Batch:
    """Keeps the waiting and the running requests."""

    def __init__(self, kv: "KVMemory", limits: SchedulerLimits, reservations: "Reservations | None" = None) -> None:
        self.kv = kv
        self.limits = limits
        self.reservations = reservations  # None: blocks are taken as tokens come
        self.preemptions = PreemptionLog()
        self.num_cached_prompt_tokens = 0  # found in the cache when their request started
        self._waiting = WaitingQueue()
        self.full = False  # the last plan() found no newcomer that fits; none will until a sequence leaves
        self._running: list[Request] = []  # in order of admission: the last one is preempted first
        self._ended: list[Sequence] = []  # finished ones of a running static batch: they keep their memory
        self._watermark = max(1, int(WATERMARK * kv.pool.num_blocks))
        self.has_adapters = False  # a request has a LoRA adapter
        self.has_scores = False  # a request wanted log probabilities of given tokens
        self._num_scores_left = limits.max_scores  # that the step being planned may still compute
        self._steady: SteadyBatch | None = None  # all that run, while they do nothing but decode

    @property
    def num_waiting(self) -> int:
        return self._waiting.num_requests

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return sum(len(r.live) for r in self._running)

    @property
    def is_idle(self) -> bool:
        """Whether there is no request."""
        return not self._running and not self._waiting.num_requests

    @property
    def running(self) -> list[Request]:
        """Requests in the batch; read it, do not change it."""
        return self._running

    @property
    def ended(self) -> list[Sequence]:
        """Finished sequences that still hold their memory; read it, do not change it."""
        return self._ended

    def add(self, request: Request) -> None:
        """Queue the request. Precondition: it fits into the empty pool (Admission.check)."""
        scoring = request.live[0].scoring
        prompt = request.prompt_token_ids
        known = prompt if scoring is None else scoring.may_be_cached(prompt)
        request.prefix_hashes = self.kv.prompt_hashes(known, request.variant)
        self.has_adapters = self.has_adapters or request.adapter >= 0
        self.has_scores = self.has_scores or scoring is not None
        self._waiting.add(request)

    def abort(self, request: Request) -> None:
        """Forget the request and free its blocks."""
        self._steady = None
        if request in self._running:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        for sequence in (*request.live, *request.leaving):
            self._free(sequence.seq_id)

    def _free(self, seq_id: int) -> None:
        """Free the blocks of a sequence that ended."""
        self.kv.free(seq_id)

    def _ready(self, sequence: Sequence) -> bool:
        """Whether the sequence can run; without blocks it waits until what it shares with a sibling is computed there."""
        if self.kv.has_table(sequence.seq_id):
            return True
        siblings = [s for s in sequence.request.live if self.kv.has_table(s.seq_id)]
        if not siblings:
            self._start(sequence)
            return True
        nearest = max(siblings, key=lambda s: self._shared_slots(s, sequence))
        shared = self._shared_slots(nearest, sequence)
        if nearest.num_computed < shared:
            return False
        self.kv.fork(nearest.seq_id, sequence.seq_id, shared)
        sequence.num_computed = shared
        return True

    def _shared_slots(self, sibling: Sequence, sequence: Sequence) -> int:
        """Slots in the whole blocks that both sequences begin with, a token to compute left over."""
        known = sequence.token_ids if sequence.scoring is None else sequence.scoring.may_be_cached(sequence.token_ids)
        limit = min(sibling.num_tokens, len(known)) - 1
        common = next((i for i in range(limit) if sibling.token_ids[i] != sequence.token_ids[i]), limit)
        return common // self.kv.block_size * self.kv.block_size

    def _start(self, sequence: Sequence) -> None:
        """Give a sequence without blocks those of its text that the cache still has."""
        scoring, token_ids = sequence.scoring, sequence.token_ids
        known = token_ids if scoring is None else scoring.may_be_cached(token_ids)
        hashes, variant = self._hashes(sequence, known), sequence.request.variant
        sequence.num_computed = self.kv.adopt_prefix(sequence.seq_id, hashes, known, variant)

    def _hashes(self, sequence: Sequence, known: list[int]) -> list[bytes]:
        request = sequence.request
        if len(known) == request.num_prompt_tokens:
            return request.prefix_hashes
        return self.kv.prompt_hashes(known, request.variant)

    def _preempt(self, request: Request) -> None:
        """Take the whole request out of the batch: its blocks move to the swap pool, or are dropped to be computed again."""
        request.running, self._steady = False, None
        self._waiting.put_back(request)
        if self.limits.preemption == "swap" and self.kv.can_swap_out(request.seq_ids):
            self.kv.swap_out(request.seq_ids)
            self.preemptions.record(request, tokens_lost=0)
            return
        self.preemptions.record(request, tokens_lost=sum(s.num_computed for s in request.live))
        self._drop_computed(request)

    def _drop_computed(self, request: Request) -> None:
        """Free the blocks of a request outside the batch; its tokens are to be computed again."""
        if request.beam_search is not None:
            request.beam_search.withdraw()
        for sequence in request.live:
            sequence.num_lost = max(sequence.num_lost, sequence.num_computed)
        for sequence in request.live:
            self.kv.free(sequence.seq_id)
            sequence.num_computed = 0

    def _release_ended(self) -> None:
        """Free the memory that finished sequences of a static batch hold."""
        self.full = self.full and not self._ended
        for sequence in self._ended:
            self._free(sequence.seq_id)
        self._ended.clear()

    def _admit(self, lengths: dict[Sequence, int], budget: int, behind: list[Request]) -> None:
        """Start waiting requests while all they know fits beside what is promised already: preempted ones, then newcomers.

        Promised are the blocks that running requests still need for what they know: those that are behind.
        """
        at_once = self.limits.batching != "continuous"  # a batch is formed now, even of more prompts than one step takes
        if at_once:
            self.full = bool(self._running)
            if self.full:
                return
            self._release_ended()
        room = self.limits.max_num_seqs - self._num_sequences_taken()
        promised = sum(self._num_missing_blocks(r) for r in behind)
        while (budget > 0 or at_once) and (request := self._waiting.next_preempted()) is not None:
            if request.max_live > room or self._alone() or not self._resume(request, promised):
                self.full = True
                return
            room -= request.max_live
            budget -= self._schedule_admitted(request, budget, lengths)
            promised += self._num_missing_blocks(request)
        self._admit_newcomers(lengths, budget, room, promised)

    def _num_sequences_taken(self) -> int:
        """Sequences that the running requests may have in a step."""
        return sum(r.max_live for r in self._running) if self._steady is None else len(self._steady)

    def _admit_newcomers(self, lengths: dict[Sequence, int], budget: int, room: int, promised: int) -> None:
        at_once = self.limits.batching != "continuous"
        being_computed = set() if at_once else self._hashes_being_computed()
        num_deferred = 0
        for request in self._waiting.newcomers():
            if (budget <= 0 and not at_once) or num_deferred == MAX_DEFERRED:
                return
            if request.max_live > room or self._alone():
                self.full = num_deferred == 0
                return
            found, idle = self.kv.num_cached_blocks(request.prefix_hashes)
            if found < len(request.prefix_hashes) and request.prefix_hashes[found] in being_computed and not at_once:
                num_deferred += 1
                continue
            for_forks = request.max_live - 1 if self._running else 0  # alone, a request that was let in always fits
            needed = self.kv.num_blocks_for(request.num_prompt_tokens) + for_forks - found
            if not self._fits(request, needed + idle, promised):
                self.full = num_deferred == 0
                return
            self._enter(request)
            room -= request.max_live
            being_computed.update(request.prefix_hashes[found:])
            self._start(request.live[0])
            self.num_cached_prompt_tokens += request.live[0].num_computed
            budget -= self._schedule_admitted(request, budget, lengths)
            promised += self._num_missing_blocks(request)

    def _alone(self) -> bool:
        """Whether a request of the batch is to run alone."""
        return self.limits.batching == "none" and bool(self._running)

    def _fits(self, request: Request, num_blocks: int, promised: int) -> bool:
        if self.reservations is not None:
            return self.reservations.fits(request)
        spare = self.kv.num_free_blocks - promised - num_blocks
        return spare >= (self._watermark if self._running else 0)

    def _enter(self, request: Request) -> None:
        self._waiting.remove(request)
        self._running.append(request)
        request.running, self._steady = True, None
        if self.reservations is not None:
            self.reservations.hold(request)

    def _resume(self, request: Request, promised: int) -> bool:
        """Put a preempted request back into the batch if its blocks fit; swapped ones are moved in."""
        swapped = self.kv.num_swapped_out(request.seq_ids)
        to_go_on = len(request.live) if self._running else 0  # alone, it always fits
        needed = swapped + to_go_on if swapped else self._num_missing_blocks(request)
        if not self._fits(request, needed, promised):
            return False
        if swapped and not self.kv.swap_in(request.seq_ids):
            return False
        self._enter(request)
        return True

    def _schedule_admitted(self, request: Request, budget: int, lengths: dict[Sequence, int]) -> int:
        """The newcomer's part of the step; it takes free blocks only and preempts no request."""
        used = 0
        for sequence in request.live:
            if self._ready(sequence):
                num_tokens = self._num_to_run(sequence, budget - used)
                if num_tokens > 0 and self.kv.reserve(sequence.seq_id, sequence.num_computed + num_tokens):
                    lengths[sequence] = num_tokens
                    used += num_tokens
        return used

    def _num_to_run(self, sequence: Sequence, budget: int) -> int:
        """How many of the sequence's tokens run in the step being planned, of at most `budget`."""
        num_tokens = min(sequence.num_uncomputed, budget)
        if sequence.scoring is None:
            return num_tokens
        num_scores = sequence.scoring.num_logits(sequence.num_computed, num_tokens)
        too_many = max(0, num_scores - self._num_scores_left)
        self._num_scores_left -= num_scores - too_many
        return num_tokens - too_many

    def _num_missing_blocks(self, request: Request) -> int:
        """Blocks that the request's known tokens still need, what its sequences share counted once."""
        total = 0
        for sequence in request.live:
            blocks = self.kv.num_blocks_for(sequence.num_tokens)
            if self.kv.has_table(sequence.seq_id):
                total += max(0, blocks - len(self.kv.block_table(sequence.seq_id)))
            elif sequence is request.live[0]:
                total += blocks
            else:
                total += blocks - self._shared_slots(request.live[0], sequence) // self.kv.block_size
        return total

    def _hashes_being_computed(self) -> set[bytes]:
        """Hashes of prompt blocks that running requests are about to compute: newcomers with the same prefix wait."""
        behind = (r for r in self._running if not r.forked and r.live[0].num_computed < r.num_prompt_tokens)
        return {h for r in behind for h in r.prefix_hashes[r.live[0].num_computed // self.kv.block_size :]}
