"""Choosing a step's tokens on the GPU: which steps can be, and what the kernels need to draw what the CPU would draw."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pagecli.devices.cuda import kernels

if TYPE_CHECKING:
    from pagecli.core.step_plan import StepPlan

MAX_VOCAB = 1 << 21  # of the drawing kernel


def can_choose(plan: "StepPlan", vocab_size: int) -> bool:
    """Whether all of the step's tokens can be: none needs log probabilities, penalties, a mask or beams' candidates."""
    return vocab_size <= MAX_VOCAB and all(spec.needs_no_host for chunk in plan.chunks for spec in chunk.specs)


def draw_arrays(plan: "StepPlan", logit_rows: list[int]) -> dict[str, np.ndarray]:
    """Parameters of the step's draws, in the order of its specs; logit_rows[i]: of the i-th chunk that has any.

    Empty where every row gives its likeliest token, in order: then nothing need be told.
    """
    specs = [chunk.specs for chunk in plan.chunks if chunk.specs]
    rows = [row for row, of_chunk in zip(logit_rows, specs, strict=True) for _ in of_chunk]
    flat = [spec for of_chunk in specs for spec in of_chunk]
    params = [spec.params for spec in flat]
    if all(p.greedy for p in params) and rows == list(range(len(rows))):
        return {}
    keys = [(spec.params.seed, spec.row_key, spec.sample, spec.position) for spec in flat]
    return {
        "draw_rows": np.array(rows, dtype=np.int32),
        "temperatures": np.array([0.0 if p.greedy else p.temperature for p in params], dtype=np.float32),
        "top_k": np.array([p.top_k for p in params], dtype=np.int32),
        "top_p": np.array([p.top_p for p in params], dtype=np.float32),
        "min_p": np.array([p.min_p for p in params], dtype=np.float32),
        "draw_keys": np.array(keys, dtype=np.uint64).view(np.int64),
    }


def choose(out: torch.Tensor, logits: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
    """out[D] (int64) = the tokens, by draw_arrays on the device."""
    if "draw_rows" not in tensors:
        kernels.argmax(out, logits[: out.shape[0]])
        return
    names = ("draw_rows", "temperatures", "top_k", "top_p", "min_p", "draw_keys")
    kernels.sample_tokens(out, logits, *(tensors[name] for name in names))
