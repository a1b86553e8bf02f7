"""Events of an engine for its listener: requests and steps as frozen snapshots.

The engine has no listener unless one is given; then the only cost is the test for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pagecli.core.outputs import RequestOutput
from pagecli.core.step_plan import KVUsage, StepPlan
from pagecli.engine.request import Request


class StepTimes(NamedTuple):
    """When the parts of one step ended, on time.perf_counter(); never before the step in front of it ended.

    Host time for this step during the one before is left out: steps do not overlap in these times.
    """

    started: float
    planned: float  # the step is planned, and its blocks are reserved
    prepared: float  # blocks moved, input tensors built
    forwarded: float  # logits computed
    sampled: float  # tokens chosen
    committed: float  # tokens recorded, stop checks made


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was run and committed."""

    plan: StepPlan
    finished: list[Request]
    times: StepTimes


@dataclass(frozen=True, slots=True)
class BlockSnapshot:
    """Every block of the pool at one moment."""

    filled: list[int]  # slots that hold a token's K and V
    ref_counts: list[int]
    cached_ids: list[int]


@dataclass(frozen=True, slots=True)
class StepSnapshot:
    """The engine when a step's tokens are in the cache, or will be when the pending step has run; sequences that finish in
    this step still hold their blocks, and nothing is reserved for the step after it."""

    plan: StepPlan
    memory: KVUsage
    block_size: int
    num_waiting: int  # requests
    num_preemptions: int  # since the engine was made
    blocks: BlockSnapshot | None  # where the listener wants them


class EngineListener(Protocol):
    """Called on the thread that runs the engine, so whatever a listener does is time of the run."""

    @property
    def wants_blocks(self) -> bool:
        """Whether the next step's snapshot should have every block."""
        ...

    def request_added(self, request_id: int, num_prompt_tokens: int, seq_id: int) -> None:
        """The request has been queued; `seq_id` is that of the sequence that computes its prompt."""
        ...

    def request_aborted(self, request_id: int) -> None:
        """The request was given up before it finished."""
        ...

    def step_computed(self, step: StepSnapshot) -> None:
        """A step's tokens are computed."""
        ...

    def step_ended(self, times: StepTimes, ended: float, outputs: Sequence[RequestOutput]) -> None:
        """The step computed last is over, `outputs` are the requests that finished in it; at `ended`, on time.perf_counter(),
        they had been turned into text."""
        ...
