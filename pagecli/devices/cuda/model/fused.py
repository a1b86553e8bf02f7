"""The GPU's pass over a program: what one kernel can do together becomes one operation.

A norm adds to what it reads what an addition before it would, which saves a pass over both; where only some rows are wanted
further on, those are added; queries and keys are normed and rotated on the keys' way into the cache; a table of positions is
added to the tokens while they are embedded. What adapters add comes before an addition to the hidden states, which so stays
with its norm.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from pagecli.model.program import (
    Add,
    Attention,
    Embedding,
    GatedActivation,
    Linear,
    LowRank,
    Norm,
    Operation,
    Program,
    Reduce,
    Rotary,
    Router,
    Select,
    Split,
)


@dataclass(frozen=True, slots=True)
class AddNorm:
    """x += added; out = norm(x)"""

    norm: Norm
    added: str


@dataclass(frozen=True, slots=True)
class PreparedAttention:
    """RMS norms of q and k, then Rotary, then Attention; the norms or the rotation may be missing."""

    attention: Attention
    rotary: Rotary | None
    norms: tuple[Norm, Norm] | None


@dataclass(frozen=True, slots=True)
class PositionedEmbedding:
    """out = tokens.weight[token_ids] + positions.weight[positions + offset]"""

    tokens: Embedding
    positions: Embedding


@dataclass(frozen=True, slots=True)
class InFloat8:
    """A norm or an activation whose output is in 8-bit floats, with a scale for each row: products in them alone read it."""

    made: "Norm | AddNorm | GatedActivation | Linear"


CudaOperation = Operation | AddNorm | PreparedAttention | PositionedEmbedding | InFloat8


def fuse(program: Program) -> list[CudaOperation]:
    """The program's operations in order, those that one kernel does together as one."""
    fused: list[CudaOperation] = []
    for operation in _adds_behind_selections(program.operations()):
        before = fused[-1] if fused else None
        match before, operation:
            case Add(out, x), Norm() if operation.x == out:
                fused[-1] = AddNorm(operation, x)
            case _, Attention():
                fused.append(_prepared(fused, operation))
            case Embedding(out, "positions"), Add() if operation.x == out and _embeds_tokens(fused[:-1], operation.out):
                tokens = fused[-2]
                assert isinstance(tokens, Embedding)
                fused[-2:] = [PositionedEmbedding(tokens, before)]
            case _:
                fused.append(operation)
    return fused


def with_float8(operations: list[CudaOperation], has_float8: Callable[[Linear], bool]) -> list[CudaOperation]:
    """The operations, those in InFloat8 whose output goes into linear layers in 8-bit floats and nowhere else."""
    marked: list[CudaOperation] = []
    readers: dict[str, list[CudaOperation]] = {}  # of a value, behind the operation in hand, until it is written anew
    for operation in reversed(operations):
        if (out := _rounded_value(operation)) is not None and _are_float8(readers.get(out, []), has_float8):
            assert isinstance(operation, Norm | AddNorm | GatedActivation | Linear)
            marked.append(InFloat8(operation))
        else:
            marked.append(operation)
        for value in writes_of(operation):
            readers.pop(value, None)
        for value in reads_of(operation):
            readers.setdefault(value, []).append(operation)
    return marked[::-1]


def _rounded_value(operation: CudaOperation) -> str | None:
    """What a kernel writes that can round rows to 8 bits; nothing that is read before it is written."""
    match operation:
        case AddNorm(norm=Norm(out=out, x=x)) | Norm(out=out, x=x) if out != x:
            return out
        case GatedActivation(out=out, groups=1):
            return out
        case Linear(out=out, activation=activation) if activation != "none":
            return out
    return None


def _are_float8(readers: list[CudaOperation], has_float8: Callable[[Linear], bool]) -> bool:
    """Whether all that read a value are products of whole rows in 8-bit floats."""
    return bool(readers) and all(isinstance(op, Linear) and not op.weight.whole_columns and has_float8(op) for op in readers)


def reads_of(operation: CudaOperation) -> set[str]:
    """The values an operation reads, those that it changes in place included."""
    if isinstance(operation, AddNorm):
        return {operation.norm.x, operation.added}
    if isinstance(operation, PreparedAttention):
        return reads_of(operation.attention)
    if isinstance(operation, PositionedEmbedding):
        return set()
    if isinstance(operation, InFloat8):
        return reads_of(operation.made)
    if isinstance(operation, Reduce):
        return set(operation.parts)
    if isinstance(operation, Router):
        return {operation.x}
    names = {getattr(operation, name, "") for name in ("x", "q", "k", "v", "ids", "weights", "shared", "gate")} - {""}
    return names | {operation.out} if isinstance(operation, Add | LowRank) else names


def writes_of(operation: CudaOperation) -> set[str]:
    """The values an operation writes, those that it changes in place included."""
    if isinstance(operation, AddNorm):
        return {operation.norm.out, operation.norm.x}
    if isinstance(operation, PreparedAttention):
        return {operation.attention.out}
    if isinstance(operation, PositionedEmbedding):
        return {operation.tokens.out}
    if isinstance(operation, InFloat8):
        return writes_of(operation.made)
    if isinstance(operation, Split):
        return {operation.q, operation.k, operation.v}
    if isinstance(operation, Router):
        return {operation.ids, operation.weights}
    out = getattr(operation, "out", None)
    return {out} if out else {operation.q, operation.k} if isinstance(operation, Rotary) else set()


def last_uses(operations: list[CudaOperation]) -> list[set[str]]:
    """For each operation the values that nothing reads behind it before they are written anew: their memory may go."""
    ends: list[set[str]] = []
    live: set[str] = set()
    for operation in reversed(operations):
        reads = reads_of(operation)
        ends.append((reads | writes_of(operation)) - live)
        live = (live - writes_of(operation)) | reads
    return ends[::-1]


def peak_width(operations: list[CudaOperation], columns: dict[str, int]) -> int:
    """The most columns of values that are there at a time, each from where it is written to its last use; `columns`: of each
    value (program.widths)."""
    most, live = 0, dict[str, int]()
    for operation, ended in zip(operations, last_uses(operations), strict=True):
        live |= {name: columns.get(name, 0) for name in writes_of(operation)}
        if isinstance(operation, Split):  # views of its input, of which attention reads the last
            live[operation.v] = live.pop(operation.x)
        most = max(most, sum(live.values()))
        for name in ended:
            live.pop(name, None)
    return most


def _adds_behind_selections(operations: Iterable[Operation]) -> list[Operation]:
    """Add, Select -> Select of both, Add of the selected rows; Add, LowRank of its sum -> LowRank of what is added, Add."""
    moved: list[Operation] = []
    for operation in operations:
        before = moved[-1] if moved else None
        if isinstance(operation, Select) and isinstance(before, Add) and before.out == operation.x:
            moved[-1:] = [operation, Select(before.x, before.x), Add(operation.out, before.x)]
        elif isinstance(operation, LowRank) and isinstance(before, Add) and before.out == operation.out:
            moved[-1:] = [replace(operation, out=before.x), before]
        else:
            moved.append(operation)
    return moved


def _prepared(before: list[CudaOperation], attention: Attention) -> PreparedAttention:
    """The attention, with what prepares its queries and keys, which is taken from the end of `before`."""
    rotary, norms = None, None
    match before[-1:]:
        case [Rotary(q, k) as last] if (q, k) == (attention.q, attention.k):
            rotary = last
            before.pop()
    match before[-2:]:
        case [Norm() as of_q, Norm() as of_k] if _are_head_norms(of_q, of_k, attention):
            norms = of_q, of_k
            del before[-2:]
    return PreparedAttention(attention, rotary, norms)


def _are_head_norms(of_q: Norm, of_k: Norm, attention: Attention) -> bool:
    in_place = (of_q.x, of_k.x) == (of_q.out, of_k.out) == (attention.q, attention.k)
    return in_place and of_q.kind == of_k.kind == "rms" and of_q.eps == of_k.eps and None not in (of_q.weight, of_k.weight)


def _embeds_tokens(operations: list[CudaOperation], out: str) -> bool:
    return bool(operations) and isinstance(operations[-1], Embedding) and operations[-1].out == out
