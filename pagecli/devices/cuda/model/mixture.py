"""The operations of a mixture of experts, bound to their weights. Where a step's rows go is chosen, and the rows are sorted by
expert, on the GPU: the host learns nothing of it, so that a graph can hold the step."""

from collections.abc import Callable
from typing import Protocol

import torch

from pagecli.devices.base import StepInputs
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.weights import CudaWeights
from pagecli.model.program import Combine, ExpertLinear, Mixture, Router

FEW_ROWS, MANY_ROWS = 16, 64  # of a tile
_MANY = 32  # rows for each expert from which on the larger tiles are taken: they read the weights less often


class _Step(Protocol):
    """What they read and write (devices/cuda/model/model.py)."""

    @property
    def inputs(self) -> StepInputs[torch.Tensor]: ...
    @property
    def values(self) -> dict[str, torch.Tensor]: ...
    @property
    def routes(self) -> dict[str, kernels.SortedRows]: ...


def bind_mixture(operation: Mixture, weights: CudaWeights) -> Callable[[_Step], None]:
    match operation:
        case Router():
            return _router(operation, weights.dtype)
        case ExpertLinear():
            return _expert_linear(operation, weights)
        case Combine():
            return _combine(operation)


def in_groups(rows: torch.Tensor, groups: int) -> torch.Tensor:
    """[T, groups, width] of rows that hold so many vectors side by side."""
    return rows.view(rows.shape[0], groups, rows.shape[1] // groups)


def rows_of_tile(num_rows: int, num_experts: int, dtype: torch.dtype) -> int:
    """Rows of the tiles that so many rows are cut into: it changes no bit."""
    return MANY_ROWS if dtype != torch.float32 and num_rows >= _MANY * num_experts else FEW_ROWS


def _router(operation: Router, dtype: torch.dtype) -> Callable[[_Step], None]:
    def call(step: _Step) -> None:
        logits = step.values[operation.x]
        num_tokens, num_experts = logits.shape
        ids = torch.empty(num_tokens, operation.chosen, dtype=torch.int32, device=logits.device)
        shares = step.values[operation.weights] = torch.empty(ids.shape, dtype=torch.float32, device=logits.device)
        kernels.router(ids, shares, logits, operation.normalized, step.inputs.token_ids)
        step.routes[operation.ids] = kernels.sort_experts(ids, num_experts, rows_of_tile(ids.numel(), num_experts, dtype))

    return call


def _expert_linear(operation: ExpertLinear, weights: CudaWeights) -> Callable[[_Step], None]:
    experts, chosen = weights.experts(operation), operation.chosen
    num_rows, num_cols = experts.weight.shape[1:]
    columns = slice(operation.first_column, operation.first_column + num_cols)

    def call(step: _Step) -> None:
        x = step.values[operation.x]
        if x.shape[1] != num_cols:
            x = in_groups(x, chosen)[:, :, columns]
        out = step.values[operation.out] = torch.empty(x.shape[0], chosen * num_rows, dtype=x.dtype, device=x.device)
        plan = step.routes[operation.ids]
        kernels.grouped_linear(in_groups(out, chosen), x, plan, experts.weight, experts.bias, experts.scales)

    return call


def _combine(operation: Combine) -> Callable[[_Step], None]:
    def call(step: _Step) -> None:
        values = step.values
        x = in_groups(values[operation.x], operation.chosen)
        shared, gate = (values[name] if name else None for name in (operation.shared, operation.gate))
        out = values[operation.out] = torch.empty(x.shape[0], x.shape[2], dtype=x.dtype, device=x.device)
        kernels.combine_experts(out, x, values[operation.weights], shared, gate)

    return call
