"""The operations of a mixture of experts, bound to their weights."""

import numpy as np

from pagecli.core.arrays import Array
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.bound_step import Bound, BoundStep
from pagecli.devices.cpu.weights.packed_weight import CpuWeights
from pagecli.model.program import Combine, ExpertLinear, Mixture, Router


def bind_mixture(operation: Mixture, added_to: str, weights: CpuWeights) -> Bound:
    """`added_to`: the value that the experts' sum is added to; "": it is stored."""
    match operation:
        case Router():
            return _router(operation)
        case ExpertLinear():
            return _expert_linear(operation, weights)
        case Combine():
            return _combine(operation, added_to)


def in_groups(rows: Array, groups: int) -> Array:
    """[T, groups, width] of rows that hold so many vectors side by side."""
    return rows.reshape(rows.shape[0], groups, rows.shape[1] // groups)


def _ids(step: BoundStep, name: str) -> Array:
    """Numbers of experts: a buffer of floats holds their bits."""
    return step.values[name].view(np.int32)


def _router(operation: Router) -> Bound:
    ids, weights, x, normalized = operation.ids, operation.weights, operation.x, operation.normalized
    return lambda step: kernels.router(_ids(step, ids), step.values[weights], step.values[x], normalized, step.program)


def _expert_linear(operation: ExpertLinear, weights: CpuWeights) -> Bound:
    out, x, ids, chosen = operation.out, operation.x, operation.ids, operation.chosen
    weight = weights.experts(operation.weight)
    bias = None if operation.bias is None else weights.vector(operation.bias)
    columns = slice(operation.first_column, operation.first_column + weight.num_cols)

    def call(step: BoundStep) -> None:
        rows = step.values[x]
        if rows.shape[1] != weight.num_cols:
            rows = in_groups(rows, chosen)[:, :, columns]
        kernels.grouped_linear(in_groups(step.values[out], chosen), rows, _ids(step, ids), weight, bias, step.program)

    return call


def _combine(operation: Combine, added_to: str) -> Bound:
    x, weights, shared, gate, chosen = operation.x, operation.weights, operation.shared, operation.gate, operation.chosen
    out, accumulate = added_to or operation.out, bool(added_to)

    def call(step: BoundStep) -> None:
        values = step.values
        beside = values[shared] if shared else None, values[gate] if gate else None
        kernels.combine_experts(values[out], in_groups(values[x], chosen), values[weights], *beside, accumulate, step.program)

    return call
