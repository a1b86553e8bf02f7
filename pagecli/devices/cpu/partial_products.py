"""Products of some columns of a value, bound to their weights: of LoRA adapters, and of one rank of several, whose sum is taken
in a fixed order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagecli.core.arrays import Array
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.bound_step import Bound
from pagecli.devices.cpu.weights.packed_weight import PackedWeight
from pagecli.model.program import Linear, LowRank, Reduce


@dataclass(frozen=True, slots=True)
class SharedParts:
    """Buffers of partial sums, by the names of their values, that all ranks see; `meeting`: kernels.rendezvous."""

    parts: Mapping[str, Array]
    meeting: Any


def bind_partial(operation: Linear, weight: PackedWeight, bias: Array | None) -> Bound:
    """A product of the columns of x that the weight has."""
    out, x, first = operation.out, operation.x, operation.first_column
    last = first + operation.weight.columns
    return lambda step: kernels.linear(
        step.values[out], step.values[x][:, first:last], weight, bias, "none", False, step.program
    )


def bind_sum(operation: Reduce, added_to: str, meeting: Any) -> Bound:
    """The sum of the parts, some of them other ranks', which `meeting` (kernels.rendezvous) waits for, stored or `added_to`."""
    out, parts, accumulate = added_to or operation.out, operation.parts, bool(added_to)
    return lambda step: kernels.reduce(
        step.values[out], [step.values[part] for part in parts], accumulate, meeting, step.program
    )


def bind_low_rank(operation: LowRank) -> Bound:
    """What each row's adapter adds to some columns of a value."""
    out, x, first, last = operation.out, operation.x, operation.first, operation.last
    matrices = operation.a, operation.b, operation.starts
    columns = slice(operation.first_column, operation.first_column + operation.a.shape[1])
    return lambda step: kernels.low_rank(
        step.values[out][:, first:last], step.values[x][:, columns], *matrices, step.inputs.adapter_ids, step.program
    )
