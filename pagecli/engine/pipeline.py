"""The loop around a step: what runs next is planned and launched while a step runs, and its results are read one step late.

    host      plan 2  launch 2 | collect 1  commit 1 | plan 3  launch 3 | collect 2  commit 2 | ...
    device    ====== step 1 =========== ====== step 2 ============================ ====== step 3 ===

That needs a step whose tokens the runner chooses without the host (can_pipeline): the next one is fed them on the device. After
any other step, and where memory is so short that somebody must be preempted, the loop waits: it commits before it plans. So it
does on CPUs, whose cores have nothing to spare for planning while a step runs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pagecli.core.step_plan import StepPlan
from pagecli.devices.cpu.runner import ModelRunner
from pagecli.engine.observer import StepTimes
from pagecli.engine.request import Request
from pagecli.engine.scheduling.pipelined_scheduler import PipelinedScheduler

if TYPE_CHECKING:
    from pagecli.devices.cuda.runner import CudaRunner


@dataclass(slots=True)
class Step:
    """A step that was launched; who finished in it and its times once it was committed."""

    plan: StepPlan
    pending: Any  # the runner's own
    started: float
    planned: float
    run_times: tuple[float, float, float] = (0.0, 0.0, 0.0)  # inputs, logits, tokens
    committed: float = 0.0
    finished: list[Request] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StepHooks:
    """Who is told of a step while it goes on."""

    planned: Callable[[], None]  # its blocks are reserved
    computed: Callable[[StepPlan], None]  # its tokens are counted as computed, and nothing is reserved for the step after it


class Pipeline:
    """Runs the scheduler's steps, one of them ahead where that is possible."""

    def __init__(self, scheduler: PipelinedScheduler, runner: "ModelRunner | CudaRunner") -> None:
        self._scheduler = scheduler
        self._runner: Any = runner  # each runner's launch() returns what its own collect() takes
        self._ahead: Step | None = None  # launched before the step in front of it was committed
        self._last_end = 0.0

    def step(self, hooks: StepHooks) -> Step | None:
        """Commit one step, the next one launched meanwhile; None if there was nothing to run.

        Raises what the runner raises; then nothing is in flight, and all requests start again from the tokens they know.
        """
        try:
            step, self._ahead = self._ahead or self._launch(hooks), None
            if step is None:
                return None
            if self._runner.can_pipeline(step.plan):
                self._ahead = self._launch(hooks, after=step.plan)
            self._land(step, hooks)
            if step.finished:
                self._drop_unwanted()
            return step
        except BaseException:
            self._ahead = None
            self._scheduler.step_failed()
            raise

    def abort(self, request: Request) -> None:
        """Forget the request; its blocks are freed when no launched step writes them."""
        self._scheduler.abort(request)
        self._drop_unwanted()

    def ended(self, step: Step) -> StepTimes:
        """The step is over now: its times, without what was hidden behind the step in front of it."""
        times = (step.started, step.planned, *step.run_times, step.committed, time.perf_counter())
        shown = StepTimes(*(max(self._last_end, at) for at in times))
        self._last_end = shown.ended
        return shown

    def _launch(self, hooks: StepHooks, after: StepPlan | None = None) -> Step | None:
        """Plan and launch a step, `after` one that is under way; None if there is nothing to run, or not yet."""
        started = time.perf_counter()
        plan = self._scheduler.plan() if after is None else self._plan_ahead(after, hooks)
        planned = time.perf_counter()
        if plan is None:
            return None
        if not plan.chunks:
            self._runner.mover.carry_out(plan.moves)
            return None
        hooks.planned()
        return Step(plan, self._runner.launch(plan), started, planned)

    def _plan_ahead(self, after: StepPlan, hooks: StepHooks) -> StepPlan | None:
        self._scheduler.look_past(after)
        hooks.computed(after)
        return self._scheduler.plan_ahead()

    def _land(self, step: Step, hooks: StepHooks) -> None:
        """Collect and commit the step."""
        results = self._runner.collect(step.pending)
        step.run_times = self._runner.times
        recorded = self._scheduler.is_recorded(step.plan)
        step.finished = self._scheduler.commit(step.plan, results)
        step.committed = time.perf_counter()
        if not recorded:
            hooks.computed(step.plan)
        self._scheduler.release_finished()

    def _drop_unwanted(self) -> None:
        """Collect the step ahead at once if all it computes is one token too many; it is in no record."""
        step = self._ahead
        if step is not None and not self._scheduler.is_wanted(step.plan):
            self._ahead = None
            self._scheduler.commit(step.plan, self._runner.collect(step.pending))
