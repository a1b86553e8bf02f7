"""The CPU's pass over a program: a linear layer, or an RMS norm, adds to what an addition behind it would."""

from collections.abc import Iterable
from dataclasses import dataclass

from pagecli.model.program import Add, Combine, Linear, Norm, Operation, Program, Reduce, Weight, widths


@dataclass(frozen=True, slots=True)
class LinearAdd:
    """out += activation(x @ weight.T + bias): Linear and the Add of its output, which is never in memory."""

    out: str
    x: str
    weight: Weight
    bias: Weight | None
    activation: str


@dataclass(frozen=True, slots=True)
class ReduceAdd:
    """out += ((parts[0] + parts[1]) + ...): Reduce and the Add of its output."""

    out: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NormAdd:
    """out += norm(norm.x): Norm and the Add of its output, which is never in memory."""

    out: str
    norm: Norm


@dataclass(frozen=True, slots=True)
class CombineAdd:
    """out += what `combine` gives: Combine and the Add of its output, which is never in memory."""

    out: str
    combine: Combine


CpuOperation = Operation | LinearAdd | ReduceAdd | NormAdd | CombineAdd


def fuse_adds(operations: Iterable[Operation]) -> tuple[CpuOperation, ...]:
    fused: list[CpuOperation] = []
    for operation in operations:
        before = fused[-1] if fused else None
        if isinstance(operation, Add) and isinstance(before, Linear) and before.out == operation.x:
            fused[-1] = LinearAdd(operation.out, before.x, before.weight, before.bias, before.activation)
        elif isinstance(operation, Add) and isinstance(before, Reduce) and before.out == operation.x:
            fused[-1] = ReduceAdd(operation.out, before.parts)
        elif isinstance(operation, Add) and isinstance(before, Norm) and before.out == operation.x and before.kind == "rms":
            fused[-1] = NormAdd(operation.out, before)
        elif isinstance(operation, Add) and isinstance(before, Combine) and before.out == operation.x:
            fused[-1] = CombineAdd(operation.out, before)
        else:
            fused.append(operation)
    return tuple(fused)


def buffer_widths(program: Program) -> dict[str, int]:
    """Columns of every buffer that the program takes on the CPU, of float32 with a row for each token of the largest step."""
    fused = (LinearAdd, ReduceAdd, NormAdd, CombineAdd)
    return widths(operation for operation in fuse_adds(program.operations()) if not isinstance(operation, fused))
