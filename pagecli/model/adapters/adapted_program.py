"""A program with LoRA adapters beside its weights: behind each linear layer that adapters change, what they add to it.

The sums of tokens without an adapter are those of the program as it was. Adapters are added behind a layer's addition to the
hidden states, so that a device may still compute both in one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from pagecli.core.arrays import Array
from pagecli.errors import ModelError
from pagecli.model.adapters.peft_adapter import Adapter, LowRankUpdate, read_adapter
from pagecli.model.build_program import build
from pagecli.model.program import Add, Layout, Linear, LowRank, Operation, Program, weights_of
from pagecli.model.weights.layout import ordered


def adapted(program: Program, directories: Sequence[tuple[str, Path]]) -> Program:
    """The program with these adapters (name, directory), numbered in their order.

    Raises ModelError for an adapter that is none, that is another model's, or that changes what only merging can change.
    """
    if not directories:
        return program
    adapters = [read_adapter(directory) for _, directory in directories]
    _check(program, adapters)
    layouts = _trained_layouts(program)

    def with_updates(operations: Sequence[Operation]) -> tuple[Operation, ...]:
        return tuple(_with_updates(operations, adapters, layouts))

    return replace(program, embed=with_updates(program.embed), layers=tuple(with_updates(layer) for layer in program.layers))


def _trained_layouts(program: Program) -> Mapping[tuple[str, ...], Layout | None]:
    """By a weight's names, how it lies in a checkpoint that adapters are trained on, for a program of a GGUF file: the files'
    converter reorders rows of Q and K. Empty for other programs, whose weights' own layouts say it."""
    if program.config.trained_order is None:
        return {}
    interleaved, grouped = program.config.trained_order
    trained = build(replace(program.config, rope_interleaved=interleaved, grouped_qkv=grouped))
    return {weight.names: weight.layout for operation in trained.operations() for weight in weights_of(operation)}


def _check(program: Program, adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        linear, others = set[str | None](), set[str | None]()
        for operation in program.operations():
            modules = {adapter.module_of(name) for weight in weights_of(operation) for name in weight.names}
            plain = isinstance(operation, Linear) and operation.activation == "none" and operation not in program.head
            (linear if plain else others).update(modules)
        for module in adapter.updates:
            if module in others:
                raise ModelError(
                    f"{adapter.directory}: changes {module}, which is no linear layer whose output is used as it is",
                    f"merge it: --merge-lora {adapter.directory}",
                )
            if module not in linear:
                raise ModelError(f"{adapter.directory}: changes {module}, which the model does not have", "is it its base?")


def _with_updates(
    operations: Sequence[Operation], adapters: Sequence[Adapter], layouts: Mapping[tuple[str, ...], Layout | None]
) -> Iterator[Operation]:
    """The operations, and behind each linear layer, or behind its addition, what adapters add."""
    updates: list[tuple[Linear, int, int, list[LowRankUpdate | None]]] = []
    for at, operation in enumerate(operations):
        yield operation
        if isinstance(operation, Linear):
            updates = list(_updates_of(operation, adapters))
        following = operations[at + 1] if at + 1 < len(operations) else None
        is_added = isinstance(following, Add) and isinstance(operation, Linear) and following.x == operation.out
        if isinstance(operation, Linear | Add) and not is_added:
            for linear, first, last, found in updates:
                weight = replace(linear.weight, layout=layouts.get(linear.weight.names, linear.weight.layout))
                yield _low_rank(replace(linear, weight=weight, out=operation.out), first, last, found)
            updates = []


def _updates_of(linear: Linear, adapters: Sequence[Adapter]) -> Iterator[tuple[Linear, int, int, list[LowRankUpdate | None]]]:
    """Of each part of a layer that an adapter changes: its first column of the output, the one behind its last, the updates."""
    weight = linear.weight
    ends = list(accumulate(weight.rows))
    for name, rows, last in zip(weight.names, weight.rows, ends, strict=True):
        modules = [adapter.module_of(name) for adapter in adapters]
        found = [None if module is None else adapter.updates[module] for adapter, module in zip(adapters, modules, strict=True)]
        for adapter, update in zip(adapters, found, strict=True):
            if update is not None and (update.b.shape[0], update.a.shape[1]) != (rows, weight.columns):
                shape = [update.b.shape[0], update.a.shape[1]]
                raise ModelError(
                    f"{adapter.directory}: changes {name} of shape {shape}, the model's is {[rows, weight.columns]}",
                    "is it its base?",
                )
        if any(update is not None for update in found):
            yield linear, last - rows, last, found


def _low_rank(linear: Linear, first: int, last: int, updates: Sequence[LowRankUpdate | None]) -> LowRank:
    present = [update for update in updates if update is not None]
    ranks = [0 if update is None else len(update.a) for update in updates]
    a = np.concatenate([update.a for update in present])
    b = np.concatenate([_columns(linear, update, first, last) for update in present])
    starts = np.array([0, *accumulate(ranks)], np.int32)
    return LowRank(linear.out, linear.x, first, last, np.ascontiguousarray(a), np.ascontiguousarray(b), starts)


def _columns(linear: Linear, update: LowRankUpdate, first: int, last: int) -> Array:
    """[rank, last - first]: the update's b, scaled, its rows in the order that the program has the weight's rows in."""
    whole = np.zeros((linear.weight.num_rows, update.b.shape[1]), np.float32)
    whole[first:last] = update.b * np.float32(update.scale)
    return ordered(linear.weight, whole, ())[first:last].T
