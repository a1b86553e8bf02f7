"""Times every kernel operation of an engine from outside and counts what each computes or moves."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pagecli.devices.cpu import kernels
from pagecli.model.program import Linear

OPERATIONS = (
    "linear",
    "linear_argmax",
    "embedding",
    "layer_norm",
    "rms_norm",
    "rotary_embedding",
    "activation",
    "gated_activation",
    "argmax",
    "sample",
    "store_kv",
    "paged_attention",
)
ROW_RANGES = ((1, "M = 1"), (16, "M 2-16"), (64, "M 17-64"), (128, "M 65-128"), (1 << 62, "M > 128"))


@dataclasses.dataclass(slots=True)
class Total:
    """All calls of one operation: seconds, multiplications and additions, and bytes where those say more."""

    calls: int = 0
    seconds: float = 0.0
    operations: int = 0
    num_bytes: int = 0


@contextmanager
def timed(model: Any) -> Iterator[dict[str, Total]]:
    """Totals by name of the operations that run meanwhile; those of linear by layer and number of rows."""
    layers, totals = layer_names(model), dict[str, Total]()
    originals = {name: getattr(kernels, name) for name in OPERATIONS}
    for name, original in originals.items():
        setattr(kernels, name, _timing(name, original, layers, totals))
    model.record_layers = False
    try:
        yield totals
    finally:
        model.record_layers = True
        for name, original in originals.items():
            setattr(kernels, name, original)


def layer_names(model: Any) -> dict[int, str]:
    """id(packed weight) -> the value its layer computes: qkv, attention_out, gate_up, inner, mlp_out; head."""
    layers = [operation for operation in model.program.operations() if isinstance(operation, Linear)]
    names = {id(model.weights.matrix(layer.weight)): layer.out for layer in layers}
    return names | {id(model.lm_head.weight): "head"}


def _timing(name: str, original: Callable, layers: dict[int, str], totals: dict[str, Total]) -> Callable:
    """`original`, counted. What a call does is worked out once for all layers: that is not the run's time."""
    step: list[Any] = [None, None, None]  # attention's lengths are one tensor for all layers of a step
    known: dict[tuple, tuple[str, int, int]] = {}  # by weight and rows, or by the shape of what is written

    def what(args: tuple) -> tuple[str, int, int]:
        if name == "paged_attention":
            if step[0] is not args[5] or step[1] != args[8:]:
                step[:] = args[5], args[8:], described(name, args, layers)
            return step[2]
        written = args[2] if name == "store_kv" else args[0]
        key = (id(args[2]), args[1].shape[0]) if name.startswith("linear") else (written.shape,)
        if key not in known:
            known[key] = described(name, args, layers)
        return known[key]

    def call(*args: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = original(*args, **named)
        seconds = time.perf_counter() - started
        label, operations, num_bytes = what(args)
        total = totals.get(label) or totals.setdefault(label, Total())
        total.calls += 1
        total.seconds += seconds
        total.operations += operations
        total.num_bytes += num_bytes
        return result

    return call


def described(name: str, args: tuple, layers: dict[int, str]) -> tuple[str, int, int]:
    """(label, multiplications and additions, bytes): of linear weights read, of attention K and V, else what tensors hold.

    linear_argmax counts as all of its products, by weights; with bounds it does most of them in 8 bits, and reads those.
    """
    if name in ("linear", "linear_argmax"):
        rows, weight = args[1].shape[0], args[2]
        range_name = next(text for most, text in ROW_RANGES if rows <= most)
        label = f"{name} {layers.get(id(weight), 'other')} {weight.num_cols}x{weight.num_rows}, {range_name}"
        bounds = args[3] if name == "linear_argmax" and len(args) > 3 else None
        return label, 2 * rows * weight.num_rows * weight.num_cols, (bounds or weight).nbytes
    if name == "paged_attention":
        q, v_cache, lengths, starts = args[1], args[3], args[5], args[6]
        kind = "decode" if q.shape[0] == len(lengths) else "with prompts"
        window = args[8] if len(args) > 8 else 0
        kv_bytes = 2 * int(lengths.sum()) * v_cache.shape[1] * v_cache.shape[3] * v_cache.itemsize
        return f"{name} {kind}", 4 * keys_seen(lengths, starts, window) * q.shape[1] * q.shape[2], kv_bytes
    if name == "store_kv":  # args: two caches, then the new K and V, read and written
        return name, 0, sum(new.nbytes + new.size * args[0].itemsize for new in args[2:4])
    moved = [value for value in args if isinstance(value, np.ndarray) and value.shape[0] == args[0].shape[0]]
    return name, 0, sum(tensor.nbytes for tensor in moved)


def keys_seen(context_lens: np.ndarray, query_start: np.ndarray, window: int = 0) -> int:
    """Keys summed over queries: one at position p sees p + 1, or `window` of them."""
    total = 0
    for length, count in zip(context_lens.tolist(), np.diff(query_start).tolist(), strict=True):
        last = range(length - count + 1, length + 1)
        total += sum(min(n, window) for n in last) if window else count * (last[0] + last[-1]) // 2
    return total
