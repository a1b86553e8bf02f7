"""The simulated machine with steps whose results come one step late, as on a GPU: a launched step runs when it is collected,
at the latest; a block given away while a launched step may still use it shows."""

from simulated_machine import SPOILED, SimulatedMachine, choose, chosen_ids

from pagecli.engine.overlapped import OverlappedScheduler


class LateMachine(SimulatedMachine):
    """After a step without beams the next is planned before its results. `num_overlapped`: launched while one is pending."""

    scheduler_class = OverlappedScheduler

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._next = None
        self._sampled = []  # by the step that ran last
        self._moves_behind = []  # of a plan behind the pending step that runs nothing
        self.num_overlapped = self.num_dropped = 0

    @property
    def has_pending_step(self):
        return self._next is not None

    def step(self):
        plan, self._next = self._next or self._plan(), None
        if not plan.chunks:
            self._move(plan.moves)
            return plan, []
        if not any(spec.num_candidates for chunk in plan.chunks for spec in chunk.specs):
            self._plan_next(plan)
        finished = self._collect(plan)
        if self._next is not None and not self.scheduler.is_wanted(self._next):
            self.drain()
        return plan, finished

    def fail(self):
        """A step that raises where it runs, one planned behind it."""
        plan, self._next = self._next or self.scheduler.plan(), None
        if plan.chunks and not any(spec.num_candidates for chunk in plan.chunks for spec in chunk.specs):
            self.scheduler.assume_computed(plan)
            self.scheduler.plan_next()
        self.scheduler.reset()

    def _plan(self):
        plan = self.scheduler.plan()
        self.check_writes(plan)
        return plan

    def drain(self):
        """Collect the pending step."""
        plan, self._next = self._next, None
        return [] if plan is None else self._collect(plan)

    def _plan_next(self, plan):
        self.scheduler.assume_computed(plan)
        held = {block_id for chunk in plan.chunks for block_id in chunk.block_ids}
        idle = {block_id for block_id in held if self.kv.pool.ref_count(block_id) == 0}
        assert not idle, "a launched step uses a free block"
        after = self.scheduler.plan_next()
        self.kv.check_integrity()
        if after is None:
            return
        self.check_writes(after)
        assert after.num_tokens <= self.scheduler.limits.max_batch_tokens
        assert len(after.chunks) <= self.scheduler.limits.max_num_seqs
        mine = {chunk.seq_id for chunk in plan.chunks}
        for chunk in after.chunks:  # no other sequence writes blocks that the launched step uses
            if chunk.seq_id not in mine:
                written = chunk.block_ids[chunk.start // self.kv.block_size : -(-chunk.context_len // self.kv.block_size)]
                assert not held & set(written), "a block is given away while a launched step uses it"
        if after.chunks:
            self._next = after
            self.num_overlapped += 1
        else:
            self._moves_behind = after.moves

    def _collect(self, plan):
        self._move(plan.moves)
        self._feed(plan)
        for chunk in plan.chunks:
            self._write(chunk)
        self._move(self._moves_behind)
        self._moves_behind = []
        results = [self._choose_late(chunk) for chunk in plan.chunks if chunk.specs]
        self._sampled = chosen_ids(results)
        running = {s.seq_id for r in self.scheduler.running for s in r.live}
        self.num_dropped += sum(chunk.seq_id not in running for chunk in plan.chunks)
        finished = self.scheduler.commit(plan, results).finished
        self.kv.check_integrity()
        self.scheduler.release_finished()
        self.kv.check_integrity()
        return finished

    def _feed(self, plan):
        rows = [(chunk, i) for chunk in plan.chunks for i in range(len(chunk.token_ids))]
        for row, source in plan.feeds:
            chunk, at = rows[row]
            chunk.token_ids[at] = self._sampled[source]

    def _choose_late(self, chunk):
        """As _choose, of the text that is in memory: the host's own may lack the last token."""
        known = chunk.specs[0].known_token_ids
        length, spoiled = chunk.context_len, chunk.specs[0].params.seed == SPOILED
        assert len(known) >= length - spoiled  # a sequence that ended for want of a token has lost its placeholder
        size = self.kv.block_size
        read = [self.cache[chunk.block_ids[i // size]][i % size] for i in range(length)]
        assert read[:-1] == known[: length - 1], "the block table leads to other tokens than the sequence's own"
        if chunk.specs[0].num_candidates:
            return self._choose(chunk)
        return choose(read, chunk.specs)
