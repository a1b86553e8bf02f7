"""A stand-in for the model runner that keeps tokens where the real one keeps K and V, and checks that every read is right.

A slot holds the token written to it. Before a sequence chooses, its whole context is read back through its block table and
must be its own tokens: a block that was overwritten, moved wrongly or shared wrongly shows at once. The "model" is a hash of
the text so far, so a wrong token anywhere changes everything after it.
"""

from pagecli.core.outputs import TokenLogprobs
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import NO_TOKEN, BeamCandidates, MoveKind, SampledToken
from pagecli.engine.generation.decoding import FinishCheck, start_beam_search
from pagecli.engine.generation.stopping import StopSearch
from pagecli.engine.request import Request
from pagecli.engine.scheduling.batch import SchedulerLimits
from pagecli.engine.scheduling.reservations import Reservations
from pagecli.engine.scheduling.scheduler import Scheduler
from pagecli.kv.baselines.reserved_manager import ReservedManager
from pagecli.kv.manager import KVManager

EOS = 7
VOCAB = 50
SPOILED = 13  # the seed of requests that, now and then, no token can be chosen for


def next_token(known_ids, sample, salt=0):
    number = hash((tuple(known_ids), sample, salt))
    return NO_TOKEN if salt == SPOILED and number // VOCAB % 6 == 0 else number % VOCAB


def decode(token_ids, leave_out_special=True):
    return "".join(chr(65 + token_id) for token_id in token_ids)


def choose(known_ids, specs):
    """The result of a chunk with these specs, after these tokens."""
    tokens = [next_token(known_ids, spec.sample, spec.params.seed) for spec in specs]
    wanted = [spec.params.wants_logprobs and token_id != NO_TOKEN for spec, token_id in zip(specs, tokens, strict=True)]
    found = [TokenLogprobs(token_id, -token_id / 8, ()) if w else None for token_id, w in zip(tokens, wanted, strict=True)]
    return (found[0] or tokens[0]) if len(tokens) == 1 else tuple(map(SampledToken, tokens, found))


def chosen_ids(results):
    """The ids of all tokens in a step's results, in order."""
    single = [(r,) if isinstance(r, int | TokenLogprobs) else r for r in results if not isinstance(r, BeamCandidates)]
    return [token if isinstance(token, int) else token.token_id for tokens in single for token in tokens]


class SimulatedMachine:
    """A scheduler with memory under it."""

    scheduler_class = Scheduler

    def __init__(
        self,
        num_blocks=64,
        block_size=4,
        max_num_seqs=8,
        max_batch_tokens=32,
        swap_blocks=0,
        prefix_caching=True,
        kv_policy="paged",
        batching="continuous",
        max_model_len=128,
    ):
        paged = kv_policy == "paged"
        self.kv = (
            KVManager(num_blocks, block_size, prefix_caching, swap_blocks) if paged else ReservedManager(num_blocks, block_size)
        )
        reservations = None if paged else Reservations(self.kv, kv_policy, max_model_len)
        limits = SchedulerLimits(max_num_seqs, max_batch_tokens, "swap" if swap_blocks else "recompute", batching)
        self.finish_check = FinishCheck(frozenset({EOS}))
        self.scheduler = self.scheduler_class(self.kv, limits, self.finish_check, reservations)
        self.scheduler.least_steady = 1
        self.cache = [[None] * block_size for _ in range(num_blocks)]
        self.swap = [[None] * block_size for _ in range(swap_blocks)]

    def add(self, request):
        if request.params.beam_width > 1:
            start_beam_search(request, self.finish_check)
        if request.params.stop:
            request.live[0].stop_search = StopSearch(request.params.stop, decode)
        self.scheduler.add(request)

    def step(self):
        """One step: (plan, requests that finished in it)."""
        plan = self.scheduler.plan()
        assert plan.num_tokens <= self.scheduler.limits.max_batch_tokens
        assert len(plan.chunks) <= self.scheduler.limits.max_num_seqs
        self.kv.check_integrity()
        self.check_writes(plan)
        self._move(plan.moves)
        for chunk in plan.chunks:
            self._write(chunk)
        results = [self._choose(chunk) for chunk in plan.chunks if chunk.specs]
        finished = self.scheduler.commit(plan, results).finished
        self.kv.check_integrity()
        self.check_index()
        self.scheduler.release_finished()
        self.kv.check_integrity()
        return plan, finished

    def fail(self):
        """A step that raises where it runs."""
        self.scheduler.plan()
        self.scheduler.reset()

    def drain(self):
        """No step is pending."""

    def run_all(self, requests, max_steps=20_000):
        for request in requests:
            self.add(request)
        finished = []
        for _ in range(max_steps):
            if not self.scheduler.num_waiting and not self.scheduler.num_running:
                return finished
            plan, done = self.step()
            assert plan.chunks, "a step without work while requests wait: deadlock"
            finished += done
        raise AssertionError("not finished")

    def _move(self, moves):
        for move in moves:
            source = self.swap if move.kind is MoveKind.SWAP_IN else self.cache
            target = self.swap if move.kind is MoveKind.SWAP_OUT else self.cache
            target[move.target] = list(source[move.source])

    def _write(self, chunk):
        size = self.kv.block_size
        for i, token_id in enumerate(chunk.token_ids, start=chunk.start):
            self.cache[chunk.block_ids[i // size]][i % size] = token_id

    def check_writes(self, plan):
        """Every block that the plan writes belongs to one sequence."""
        for chunk in plan.chunks:
            for at in range(chunk.start // self.kv.block_size, -(-chunk.context_len // self.kv.block_size)):
                assert self.kv.pool.ref_count(chunk.block_ids[at]) == 1, "a block is written while shared"

    def _choose(self, chunk):
        size = self.kv.block_size
        known = chunk.specs[0].known_token_ids
        read = [self.cache[chunk.block_ids[i // size]][i % size] for i in range(chunk.context_len)]
        assert read == known, "the block table leads to other tokens than the sequence's own"
        if chunk.specs[0].num_candidates:
            ids = sorted(range(VOCAB), key=lambda t: hash((tuple(known), t)))[: chunk.specs[0].num_candidates]
            return BeamCandidates(ids, [-0.1 - 0.3 * (hash((tuple(known), t)) % 1000) / 1000 for t in ids])
        return choose(known, chunk.specs)

    def check_index(self):
        """A block found by a hash holds full blocks' worth of tokens, and is not free."""
        if self.kv.index is not None:
            for _, block_id in self.kv.index.items():
                assert None not in self.cache[block_id]


def make_request(request_id, prompt, **params):
    """`prompt`: its token ids, or its length."""
    ids = list(range(100, 100 + prompt)) if isinstance(prompt, int) else list(prompt)
    return Request(request_id, ids, SamplingParams(**params), row_key=request_id)


def texts(requests):
    """What every sequence of every request came to, in an order that does not depend on the schedule."""
    return [
        "failed"
        if r.failure
        else [h.output_ids for h in r.beam_search.hypotheses]
        if r.beam_search
        else [s.output_token_ids for s in sorted(r.done, key=lambda s: s.sample)]
        for r in requests
    ]
