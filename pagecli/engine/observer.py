"""Who may look on while the engine runs: told of every request and every step, and able to change nothing.

The engine has no observer unless one is given; then the only cost is the test for it.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pagecli.core.outputs import RequestOutput
from pagecli.core.step_plan import StepPlan
from pagecli.engine.request import Request
from pagecli.engine.scheduling.scheduler import Scheduler


class StepTimes(NamedTuple):
    """When the parts of one step ended, on time.perf_counter(); never before the step in front of it ended.

    What the host did for this step while that one ran is no time of this one: steps do not overlap in these records.
    """

    started: float
    planned: float  # what runs is decided, and its blocks are reserved
    prepared: float  # blocks moved, input tensors built
    forwarded: float  # logits computed
    sampled: float  # tokens chosen
    committed: float  # tokens recorded, stop checks made
    ended: float  # finished requests turned into text


class EngineObserver(Protocol):
    """What an engine tells; called on the thread that runs it, so whatever is done here is time of the run."""

    def request_added(self, request: Request) -> None:
        """The request has been queued."""
        ...

    def request_aborted(self, request_id: int) -> None:
        """The request was given up before it finished."""
        ...

    def step_computed(self, plan: StepPlan, scheduler: Scheduler) -> None:
        """The plan's tokens are in the cache, or will be when the step under way has run; sequences that finish in this step
        still hold their blocks, and nothing is reserved for the step after it."""
        ...

    def step_ended(self, times: StepTimes, outputs: Sequence[RequestOutput]) -> None:
        """The step computed last is over; `outputs` are the requests that finished in it."""
        ...
