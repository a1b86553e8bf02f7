"""Runs one step's plan on the model: block moves, inputs, forward pass, choosing tokens."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pagecli.core.arrays import Array
from pagecli.core.step_plan import BeamCandidates, StepResult
from pagecli.devices import step_inputs
from pagecli.devices.cpu import sampler
from pagecli.devices.cpu.block_mover import BlockMover
from pagecli.devices.step_inputs import KVCache

if TYPE_CHECKING:
    from pagecli.core.step_plan import SampleSpec, StepPlan
    from pagecli.devices.base import HostModel


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step that was launched; here it has run already."""

    results: list[StepResult]
    times: tuple[float, float, float]


class ModelRunner:
    """Holds the model, its KV cache and its swap pool, and nothing of the scheduler."""

    def __init__(
        self,
        model: "HostModel",
        kv_cache: KVCache[Array],
        block_size: int,
        swap: KVCache[Array] | None = None,
        pipelined: bool = False,
    ) -> None:
        """`pipelined`: allow the next step to be planned before a step's results are read. It gains nothing where the kernels
        need the cores that plan; it is for tests of what a GPU does."""
        self.model = model
        self.kv_cache = kv_cache
        self.block_size = block_size
        self.mover = BlockMover(kv_cache, swap)
        self.pipelined = pipelined
        self._sampled: list[int] = []  # by the step launched last, where a plan may be fed them
        self.times = (0.0, 0.0, 0.0)  # time.perf_counter() when the last collected step's inputs, logits and tokens were there

    def can_pipeline(self, plan: "StepPlan") -> bool:
        """Whether a step may be planned after this one before this one's results are known."""
        return self.pipelined and all(_needs_no_host(spec) for chunk in plan.chunks for spec in chunk.specs)

    def run(self, plan: "StepPlan") -> list[StepResult]:
        """Move the plan's blocks, compute its tokens, writing their K and V; one result for each chunk with specs, in order."""
        return self.collect(self.launch(plan))

    def collect(self, pending: PendingStep) -> list[StepResult]:
        """The results of a step that was launched, as of `run`."""
        self.times = pending.times
        return pending.results

    def launch(self, plan: "StepPlan") -> PendingStep:
        """Run the step; `plan.feeds` come from the step launched before."""
        self.mover.carry_out(plan.moves)
        inputs = step_inputs.build(plan, self.block_size)
        for row, source in plan.feeds:
            inputs.token_ids[row] = max(0, self._sampled[source])  # of a request that ends where there was NO_TOKEN
        prepared = time.perf_counter()
        specs = [chunk.specs for chunk in plan.chunks if chunk.specs]
        if sampler.needs_no_logits(specs):
            token_ids = self.model.most_likely(inputs, self.kv_cache)
            forwarded = time.perf_counter()
            results = sampler.same_for_all(token_ids, specs)
        else:
            logits = self.model.forward(inputs, self.kv_cache)
            forwarded = time.perf_counter()
            results = sampler.choose(logits, specs) if specs else []
        if self.pipelined:
            self._sampled = [token.token_id for result in results if not isinstance(result, BeamCandidates) for token in result]
        return PendingStep(results, (prepared, forwarded, time.perf_counter()))


def _needs_no_host(spec: "SampleSpec") -> bool:
    """Whether the choice depends on nothing that only the host knows: neither earlier tokens, nor a beam's other candidates."""
    params = spec.params
    wants_logprobs = params.logprobs is not None or params.best_of is not None
    return not (wants_logprobs or params.has_penalties or spec.forbidden_ids or spec.num_candidates)
