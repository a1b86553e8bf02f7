"""A recorder that also says where the KV slots were, by the definitions of the replay (profiler/slot_ledger.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pagecli.core.outputs import RequestOutput
from pagecli.core.step_plan import StepPlan
from pagecli.engine.observer import StepTimes
from pagecli.engine.request import Request
from pagecli.engine.scheduling.scheduler import Scheduler
from pagecli.profiler.recording.recorder import Recorder
from pagecli.profiler.replay.slot_ledger import SlotLedger, SlotSums

WARM_SHARE = 4  # the steady part begins when one in so many requests has finished


class PolicyRecorder(Recorder):
    """Records one policy at work on `num_requests` requests of known lengths.

    The steady part, as in a replay: from when a quarter of the requests have finished until nobody waits any more.
    """

    def __init__(self, title: str, facts: Mapping[str, object], num_requests: int, steps_path: Path | None = None) -> None:
        super().__init__(title, facts, steps_path)
        self.num_finished = 0
        self._num_requests = num_requests
        self._num_to_come = num_requests
        self._ledger: SlotLedger | None = None
        self._begun: SlotSums | None = None
        self._steady: SlotSums | None = None
        self._over = False  # the steady part is

    @property
    def sums(self) -> SlotSums:
        """Over the steady part, or over the whole run if that was too short to have one."""
        if self._steady is not None and self._steady.steps > 0:
            return self._steady
        return self._ledger.sums if self._ledger is not None else SlotSums()

    def request_added(self, request: Request) -> None:
        super().request_added(request)
        self._num_to_come -= 1

    def request_refused(self) -> None:
        """One fewer is to come."""
        self._num_to_come -= 1

    def step_computed(self, plan: StepPlan, scheduler: Scheduler) -> None:
        super().step_computed(plan, scheduler)
        if self._ledger is None:
            self._ledger = SlotLedger(scheduler)
        self._ledger.add_step()
        sums = self._ledger.sums
        sums.steps += 1
        sums.sequence_steps += len(plan.chunks)
        if self._begun is not None and not self._over:
            self._steady = sums.since(self._begun)
        self._over = self._num_to_come <= 0 and not scheduler.num_waiting

    def step_ended(self, times: StepTimes, outputs: Sequence[RequestOutput]) -> None:
        super().step_ended(times, outputs)
        self.num_finished += len(outputs)
        if self._begun is None and self.num_finished * WARM_SHARE >= self._num_requests and self._ledger is not None:
            self._begun = self._ledger.sums.copy()
