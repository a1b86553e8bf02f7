"""The scheduler where a step is planned and launched before the results of the one in front of it are here.

plan(), launch; look_past(), plan_ahead(), launch, commit() of the first; look_past() of the second, and so on. A sequence whose
next token is being computed is planned as one token longer. The end that its length sets is known ahead; an end or stop token,
or a stop string, is seen one step late: what the next step computes for it is dropped, and its blocks are freed after that.
"""

from pagecli.core.step_plan import StepPlan
from pagecli.engine.scheduling.in_flight import MemoryIsShort, feeding_rows
from pagecli.engine.scheduling.scheduler import Scheduler


class PipelinedScheduler(Scheduler):
    """A Scheduler that can plan past one step in flight."""

    def look_past(self, plan: StepPlan) -> None:
        """Take the launched step's tokens for computed: what it reads is known, so blocks that it fills can be shared."""
        by_id = self._live_by_id()
        self._record_computed(plan, by_id)
        for seq_id, row in feeding_rows(plan).items():
            if seq_id in by_id:
                self._in_flight.expect(by_id[seq_id], row)
        self._in_flight.look_past(plan)

    def plan_ahead(self) -> StepPlan | None:
        """The step after the one looked past. None if that one's results are needed first: memory is short, and what
        somebody in flight holds cannot be taken away."""
        try:
            plan = self.plan()
        except MemoryIsShort:  # what was reserved until here stays reserved, and the next plan() finds it
            return None
        if plan.chunks:
            self._in_flight.add(plan)
        return plan

    def is_recorded(self, plan: StepPlan) -> bool:
        """Whether the uncommitted plan's tokens are counted as computed."""
        return self._in_flight.looked_past is plan

    def is_wanted(self, plan: StepPlan) -> bool:
        """Whether a sequence in the plan still runs."""
        by_id = self._live_by_id()
        return any(chunk.seq_id in by_id for chunk in plan.chunks)

    def step_failed(self) -> None:
        """A step could not be run, and nothing is in flight any more: all start again from the tokens they know. No block is
        trusted, as the failed step may have been about to fill or move it."""
        self._in_flight.give_up()
        while self._running:
            request = self._running.pop()
            request.running = False
            self._waiting.put_back(request)
        for request in self._waiting.preempted():
            self._drop_computed(request)
        self._release_ended()
        self.kv.forget_contents()
        self.kv.take_moves()
