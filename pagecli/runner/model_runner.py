"""Runs one step's plan on the model: inputs, forward pass, sampling."""

from typing import TYPE_CHECKING

import torch

from pagecli.engine.step_plan import SampledToken
from pagecli.model.step_inputs import KVCache
from pagecli.runner import sampler, step_inputs

if TYPE_CHECKING:
    from pagecli.engine.step_plan import StepPlan
    from pagecli.model.registry import Model


class ModelRunner:
    """Holds the model and its KV cache, and nothing of the scheduler."""

    def __init__(self, model: "Model", kv_cache: KVCache, block_size: int) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.block_size = block_size

    @torch.inference_mode()
    def run(self, plan: "StepPlan") -> list[SampledToken]:
        """Compute the plan's tokens, writing their K and V; returns one token for each chunk that samples, in order."""
        inputs = step_inputs.build(plan, self.block_size)
        logits = self.model.forward(inputs, self.kv_cache)
        specs = [chunk.spec for chunk in plan.chunks if chunk.spec is not None]
        return sampler.sample(logits, specs) if specs else []
