"""Passes over a program for tensor parallelism: matrices cut along what they sum over, and the part of one rank.

    segment(program, n)           every such product as n partial products and their sum, in order: other last bits than the
                                  whole product's, and the same ones whoever computes the parts
    shard(program, rank, size)    what one of `size` ranks computes of a program with a multiple of `size` segments: its share
                                  of the rows of q, k, v, gate, up and the LM head, its segments of o and down, of every
                                  expert; norms, routers, embeddings and biases are whole, the bias of a sum belongs to its
                                  first part

Shoeybi et al., "Megatron-LM" (2019), section 3. Nothing here depends on a device.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from pagecli.core.model_config import ModelConfig
from pagecli.errors import UsageError
from pagecli.model.program import (
    Add,
    Attention,
    Combine,
    Embedding,
    ExpertLinear,
    GatedActivation,
    Head,
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
    Weight,
)

MAX_SEGMENTS = 64
GROUP = 64  # features that share a scale in int8 weights: a segment is whole groups
_SAME_ON_EVERY_RANK = (Add, Attention, Embedding, GatedActivation, Norm, Reduce, Rotary, Router, Select)


def check_divides(config: ModelConfig, size: int, dtype: str, flag: str) -> None:
    """Raises UsageError, with the numbers that would do, where a model cannot be cut into `size` parts."""
    good = good_sizes(config, dtype)
    if size not in good:
        inner, found = " and ".join(map(str, _inner_sizes(config))), ", ".join(map(str, good))
        raise UsageError(
            f"{flag} {size} does not divide the model's {config.num_heads} heads and {inner} inner features"
            + (f", in whole groups of {GROUP}" if dtype == "int8" else ""),
            f"numbers that do: {found}" if good else "no number does: leave the flag out, or take another --dtype",
        )


def good_sizes(config: ModelConfig, dtype: str) -> list[int]:
    """The numbers of parts, ascending, that a model can be cut into."""
    return [n for n in range(1, MAX_SEGMENTS + 1) if _divides(config, n, dtype)]


def _divides(config: ModelConfig, size: int, dtype: str) -> bool:
    heads, kv_heads = config.num_heads, config.num_kv_heads
    summed = {config.q_size, *_inner_sizes(config)}
    if heads % size or any(features % size for features in summed) or (kv_heads % size and size % kv_heads):
        return False
    return dtype != "int8" or all(features // size % GROUP == 0 for features in summed)


def _inner_sizes(config: ModelConfig) -> list[int]:
    """Inner features of the MLPs that the model's layers have: dense ones, experts, the expert that all tokens go to."""
    experts = config.experts
    if experts is None:
        return [config.intermediate_size]
    dense = [] if all(experts.sparse_layers) else [config.intermediate_size]
    return [*dense, experts.size, *([experts.shared_size] if experts.shared_size else [])]


def segment(program: Program, count: int) -> Program:
    """The program with every product that ranks share by columns in `count` segments; itself for 1.

    Precondition: `count` divides the model (check_divides). Raises UsageError for operations that cannot be cut.
    """
    if count == 1:
        return program
    layers = tuple(tuple(_segmented(layer, count)) for layer in program.layers)
    _check_reductions(layers)
    return dataclasses.replace(program, layers=layers)


def _segmented(operations: tuple[Operation, ...], count: int) -> Iterable[Operation]:
    """Experts' outputs, and that of the one all go to, are weighted segment by segment, then summed."""
    weighted = {name for operation in operations if isinstance(operation, Combine) for name in (operation.x, operation.shared)}
    cut = {op.x for op in operations if isinstance(op, Linear) and op.weight.split == "columns"}
    updates = [op for op in operations if isinstance(op, LowRank) and op.x in cut]
    for operation in operations:
        names = tuple(_segment_name(operation.out, index) for index in range(count)) if hasattr(operation, "out") else ()
        if isinstance(operation, Linear | ExpertLinear) and operation.weight.split == "columns":
            yield from _products(operation, names, [update for update in updates if update.x == operation.x])
            if operation.out not in weighted:
                yield Reduce(operation.out, names)
        elif isinstance(operation, Combine):
            for index, name in enumerate(names):
                shared = operation.shared and _segment_name(operation.shared, index)
                yield dataclasses.replace(operation, out=name, x=_segment_name(operation.x, index), shared=shared)
            yield Reduce(operation.out, names)
        elif not (isinstance(operation, LowRank) and operation.x in cut):
            yield operation


def _segment_name(name: str, index: int) -> str:
    return f"{name}.{index}"


def _products(operation: Linear | ExpertLinear, names: tuple[str, ...], updates: list[LowRank]) -> Iterable[Operation]:
    """The operation's partial products, of these names, and behind each the adapters' of the same columns."""
    if isinstance(operation, Linear) and operation.activation != "none":
        raise UsageError(f"an activation behind {operation.weight}, which ranks would share", "run it on one process")
    width = operation.weight.columns // len(names)
    for index, name in enumerate(names):
        weight, bias = _columns_of(operation.weight, index * width, width), operation.bias if index == 0 else None
        yield dataclasses.replace(operation, out=name, weight=weight, bias=bias, first_column=index * width)
        for update in updates:
            a = np.ascontiguousarray(update.a[:, index * width : (index + 1) * width])
            yield dataclasses.replace(update, out=name, a=a, first_column=index * width)


def _check_reductions(layers: tuple[tuple[Operation, ...], ...]) -> None:
    """That two sums that follow each other have parts in different places: a rank may be one sum ahead of another."""
    outs = [operation.out for layer in layers for operation in layer if isinstance(operation, Reduce)]
    if any(outs[index - 1] == out for index, out in enumerate(outs)):
        raise UsageError("the model's layers have one sum that ranks would share, not two in turn", "run it on one process")


def shard(program: Program, rank: int, size: int) -> Program:
    """What `rank` of `size` computes of a segmented program.

    Precondition: `size` divides the model and its segments. Raises UsageError for operations that no rank can have a part of.
    """
    if size == 1:
        return program
    config = program.config
    layers = tuple(tuple(_of_rank(config, layer, rank, size)) for layer in program.layers)
    head = tuple(_head_of_rank(operation, rank, size) for operation in program.head)
    local = dataclasses.replace(
        config,
        num_heads=config.num_heads // size,
        num_kv_heads=max(1, config.num_kv_heads // size),
        vocab_size=vocab_start(config.vocab_size, rank + 1, size) - vocab_start(config.vocab_size, rank, size),
    )
    return Program(local, program.embed, layers, head)


def vocab_start(vocab_size: int, rank: int, size: int) -> int:
    """The first token whose logit `rank` computes."""
    return vocab_size * rank // size


def _of_rank(config: ModelConfig, layer: tuple[Operation, ...], rank: int, size: int) -> Iterable[Operation]:
    num_segments = max((len(operation.parts) for operation in layer if isinstance(operation, Reduce)), default=0)
    own = range(rank * num_segments // size, (rank + 1) * num_segments // size)
    for operation in layer:
        match operation:
            case Linear(weight=weight) | ExpertLinear(weight=weight) if weight.split == "columns":
                if _segment_of(operation.out) in own:
                    first = operation.first_column - own.start * weight.columns
                    yield dataclasses.replace(operation, first_column=first)
            case LowRank(x=x, a=a) if any(isinstance(op, Reduce) and operation.out in op.parts for op in layer):
                if _segment_of(operation.out) in own:
                    yield dataclasses.replace(operation, first_column=operation.first_column - own.start * a.shape[1])
            case LowRank():
                yield from _updates_of_rank(operation, layer, rank, size)
            case Combine(out=out):
                if _segment_of(out) in own:
                    yield operation
            case Linear(weight=weight) | ExpertLinear(weight=weight) if weight.split == "rows":
                shares = _shares(operation, layer, rank, size)
                bias = None if operation.bias is None else _rows_of(operation.bias, shares)
                yield dataclasses.replace(operation, weight=_rows_of(weight, shares), bias=bias)
            case Split():
                kv_heads = max(1, operation.kv_heads // size)
                yield dataclasses.replace(operation, heads=operation.heads // size, kv_heads=kv_heads)
            case Linear():
                yield operation
            case Norm(x=x, weight=weight) if x in ("q", "k") and weight is not None and weight.num_rows > config.head_dim:
                raise UsageError("tensor parallelism does not know a norm of all heads together", "run it on one process")
            case Attention(slopes=slopes, sinks=sinks) if slopes or sinks is not None:
                yield _attention_of_rank(operation, rank, config.num_heads // size)
            case _ if isinstance(operation, _SAME_ON_EVERY_RANK):
                yield operation
            case _:
                raise UsageError(f"tensor parallelism does not know {type(operation).__name__}", "run it on one process")


def _updates_of_rank(update: LowRank, layer: tuple[Operation, ...], rank: int, size: int) -> Iterable[LowRank]:
    """Of what an adapter adds to some columns of a layer's output, those that the rank has."""
    linear = next(op for op in layer if isinstance(op, Linear) and op.out == update.out)
    if linear.weight.split != "rows":
        yield update
        return
    start = 0  # of the share, in the rank's output
    for first, count in _shares(linear, layer, rank, size):
        begin, end = max(first, update.first), min(first + count, update.last)
        if begin < end:
            b = np.ascontiguousarray(update.b[:, begin - update.first : end - update.first])
            yield dataclasses.replace(update, b=b, first=start + begin - first, last=start + end - first)
        start += count


def _segment_of(name: str) -> int:
    return int(name.rpartition(".")[2])


def _attention_of_rank(attention: Attention, rank: int, heads: int) -> Attention:
    slopes, sinks = attention.slopes[rank * heads : (rank + 1) * heads], attention.sinks
    return dataclasses.replace(
        attention, slopes=slopes, sinks=None if sinks is None else _rows_of(sinks, [(rank * heads, heads)])
    )


def _head_of_rank(operation: Operation, rank: int, size: int) -> Operation:
    if not isinstance(operation, Head):
        return operation
    num_rows = operation.weight.num_rows
    first, last = vocab_start(num_rows, rank, size), vocab_start(num_rows, rank + 1, size)
    share = [(first, last - first)]
    bias = None if operation.bias is None else _rows_of(operation.bias, share)
    return dataclasses.replace(operation, weight=_rows_of(operation.weight, share), bias=bias)


def _shares(operation: Linear | ExpertLinear, layer: tuple[Operation, ...], rank: int, size: int) -> list[tuple[int, int]]:
    """(first row, rows) of the matrix that the rank has: of heads, of gate and up, or of all, a share of each."""
    num_rows = operation.weight.num_rows
    for reader in layer:
        if isinstance(reader, Split) and reader.x == operation.out:
            dim, q_rows, kv_rows = reader.head_dim, reader.heads * reader.head_dim, reader.kv_heads * reader.head_dim
            heads, kv_heads = reader.heads // size, max(1, reader.kv_heads // size)
            kv_first = rank * reader.kv_heads // size * dim
            q = (rank * heads * dim, heads * dim)
            return [q, (q_rows + kv_first, kv_heads * dim), (q_rows + kv_rows + kv_first, kv_heads * dim)]
        if isinstance(reader, GatedActivation) and reader.x == operation.out:
            half = num_rows // 2
            return [(start + half * rank // size, half // size) for start in (0, half)]
    return [(num_rows * rank // size, num_rows // size)]


def _rows_of(weight: Weight, shares: list[tuple[int, int]]) -> Weight:
    """The matrix or vector of these rows of it, each share from one tensor."""
    names, rows, first_rows, whole_rows = [], [], [], []
    for first, count in shares:
        start = 0
        for name, num_rows in zip(weight.names, weight.rows, strict=True):
            if start <= first < start + num_rows:
                names.append(name)
                rows.append(count)
                first_rows.append(first - start)
                whole_rows.append(num_rows)
            start += num_rows
    return dataclasses.replace(
        weight, names=tuple(names), rows=tuple(rows), first_rows=tuple(first_rows), whole_rows=tuple(whole_rows)
    )


def _columns_of(weight: Weight, first: int, count: int) -> Weight:
    return dataclasses.replace(weight, columns=count, first_column=first, whole_columns=weight.columns)
