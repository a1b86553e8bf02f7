"""A recorder that also classifies the KV slots, by the definitions of the replay (profiler/replay/slot_ledger.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pagecli.core.outputs import RequestOutput
from pagecli.engine.listener import StepSnapshot, StepTimes
from pagecli.engine.scheduling.scheduler import Scheduler
from pagecli.profiler.recording.recorder import Recorder
from pagecli.profiler.replay.slot_ledger import SlotLedger, SlotSums

WARM_SHARE = 4  # the steady part begins when one in so many requests has finished


class PolicyRecorder(Recorder):
    """Records one policy at work on `num_requests` requests of known lengths.

    The steady part, as in a replay: from when a quarter of the requests have finished until none waits any more.
    """

    def __init__(
        self,
        title: str,
        metadata: Mapping[str, object],
        scheduler: Scheduler,
        num_requests: int,
        steps_path: Path | None = None,
    ) -> None:
        """`scheduler`: of the engine that is recorded; its slots are counted at every step, and nothing of it is changed."""
        super().__init__(title, metadata, steps_path)
        self.num_finished = 0
        self._num_requests = num_requests
        self._num_to_come = num_requests
        self._ledger = SlotLedger(scheduler)
        self._begun: SlotSums | None = None
        self._steady: SlotSums | None = None
        self._over = False  # the steady part is

    @property
    def sums(self) -> SlotSums:
        """Over the steady part, or over the whole run if that was too short to have one."""
        if self._steady is not None and self._steady.steps > 0:
            return self._steady
        return self._ledger.sums

    def request_added(self, request_id: int, num_prompt_tokens: int, seq_id: int) -> None:
        super().request_added(request_id, num_prompt_tokens, seq_id)
        self._num_to_come -= 1

    def request_refused(self) -> None:
        """Count a request that the policy can never hold: one fewer will run."""
        self._num_to_come -= 1

    def step_computed(self, step: StepSnapshot) -> None:
        super().step_computed(step)
        self._ledger.add_step()
        sums = self._ledger.sums
        sums.steps += 1
        sums.sequence_steps += len(step.plan.chunks)
        if self._begun is not None and not self._over:
            self._steady = sums.since(self._begun)
        self._over = self._num_to_come <= 0 and not step.num_waiting

    def step_ended(self, times: StepTimes, ended: float, outputs: Sequence[RequestOutput]) -> None:
        super().step_ended(times, ended, outputs)
        self.num_finished += len(outputs)
        if self._begun is None and self.num_finished * WARM_SHARE >= self._num_requests:
            self._begun = self._ledger.sums.copy()
