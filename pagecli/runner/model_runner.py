"""Runs one step's plan on the model: block moves, inputs, forward pass, choosing tokens."""

import time
from typing import TYPE_CHECKING

import torch

from pagecli.engine.step_plan import StepResult
from pagecli.model.step_inputs import KVCache
from pagecli.runner import sampler, step_inputs
from pagecli.runner.block_mover import BlockMover
from pagecli.runner.cuda_block_mover import CudaBlockMover

if TYPE_CHECKING:
    from pagecli.engine.step_plan import StepPlan
    from pagecli.model.registry import Model


class ModelRunner:
    """Holds the model, its KV cache and its swap pool, and nothing of the scheduler."""

    def __init__(
        self,
        model: "Model",
        kv_cache: KVCache,
        block_size: int,
        swap: KVCache | None = None,
        mover: BlockMover | CudaBlockMover | None = None,
    ) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.block_size = block_size
        self.mover = mover or BlockMover(kv_cache, swap)
        self._most_likely = getattr(model, "most_likely", None)  # a model on a GPU has none
        self.times = (0.0, 0.0, 0.0)  # time.perf_counter() when the last run's inputs, logits and tokens were there

    @torch.inference_mode()
    def run(self, plan: "StepPlan") -> list[StepResult]:
        """Move the plan's blocks, compute its tokens, writing their K and V; one result for each chunk with specs, in order."""
        self.mover.carry_out(plan.moves)
        inputs = step_inputs.build(plan, self.block_size)
        prepared = time.perf_counter()
        specs = [chunk.specs for chunk in plan.chunks if chunk.specs]
        if self._most_likely is not None and sampler.needs_no_logits(specs):
            token_ids = self._most_likely(inputs, self.kv_cache)
            forwarded = time.perf_counter()
            results = sampler.same_for_all(token_ids, specs)
        else:
            logits = self.model.forward(inputs, self.kv_cache).cpu()
            forwarded = time.perf_counter()
            results = sampler.choose(logits, specs) if specs else []
        self.times = (prepared, forwarded, time.perf_counter())
        return results
