"""Time of each native operation on one layer's shapes, beside what it moves or computes.

    python benchmarks/kernels.py --threads 1
    python benchmarks/kernels.py --shape smollm2 --save
    python benchmarks/kernels.py --kv --save          # decode attention by context and dtype of the KV cache

Caches and weights are spread over enough layers to come from memory, as in a model; the best of several runs is kept.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import results_file
import torch

from pagecli.devices.cpu import kernels
from pagecli.devices.reference.formats import keys_by_dimension, quantize_slots

NUM_LAYERS = 4
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Shape:
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int


SHAPES = {"opt-125m": Shape(768, 3072, 12, 12, 64), "smollm2": Shape(576, 1536, 9, 3, 64)}
Measurement = tuple[str, float, float, float]  # name, seconds, bytes, operations


def seconds_of(run: Callable[[int], None], repeats: int = 5) -> float:
    """Seconds of run(layer), the best of `repeats` passes over all layers."""
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        for layer in range(NUM_LAYERS):
            run(layer)
        best = min(best, (time.perf_counter() - start) / NUM_LAYERS)
    return best


def call_overhead() -> Measurement:
    x, weight = torch.ones(1, 16), torch.ones(16)
    calls = 20_000
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            kernels.rms_norm(x, x, weight, 1e-5)
        best = min(best, (time.perf_counter() - start) / calls)
    return "call (rms_norm of 16 values)", best, 0, 0


def attention(shape: Shape, dtype: torch.dtype, sequences: int, context: int, new_tokens: int) -> Measurement:
    blocks = -(-context // BLOCK_SIZE)
    cache = (NUM_LAYERS, sequences * blocks, shape.kv_heads, BLOCK_SIZE, shape.head_dim)
    keys, values = keys_by_dimension(_stored(torch.randn(cache), dtype)), _stored(torch.randn(cache), dtype)
    q = torch.randn(sequences * new_tokens, shape.heads, shape.head_dim)
    tables = torch.randperm(sequences * blocks).int().view(sequences, blocks)
    lengths = torch.full((sequences,), context, dtype=torch.int32)
    starts = torch.arange(0, sequences * new_tokens + 1, new_tokens, dtype=torch.int32)
    out = torch.empty_like(q)
    run = partial(_attend, out, q, keys, values, tables, lengths, starts, shape.head_dim**-0.5)
    seen = sequences * sum(range(context - new_tokens + 1, context + 1))  # keys, summed over queries
    kv_bytes = 2 * sequences * context * shape.kv_heads * values.shape[-1] * values.element_size()
    kind = "decode" if new_tokens == 1 else "prefill"
    name = f"paged_attention {kind}, {sequences} x {context}, {str(dtype).removeprefix('torch.')}"
    return name, seconds_of(run), kv_bytes, 4 * seen * shape.heads * shape.head_dim


def _stored(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return quantize_slots(values) if dtype == torch.int8 else values.to(dtype)


def _attend(out, q, keys, values, tables, lengths, starts, scale, layer):  # type: ignore[no-untyped-def]
    kernels.paged_attention(out, q, keys[layer], values[layer], tables, lengths, starts, scale)


def linear(shape: Shape, dtype: str, tokens: int) -> Measurement:
    rows, cols = shape.intermediate, shape.hidden
    weights = [kernels.pack_weight(torch.randn(rows, cols), dtype) for _ in range(NUM_LAYERS)]
    x, out = torch.randn(tokens, cols), torch.empty(tokens, rows)
    name = f"linear {tokens} x {cols} x {rows}, {dtype}"
    return name, seconds_of(lambda layer: kernels.linear(out, x, weights[layer])), weights[0].nbytes, 2 * tokens * rows * cols


def elementwise(shape: Shape, tokens: int) -> list[Measurement]:
    x, weight = torch.randn(tokens, shape.hidden), torch.randn(shape.hidden)
    gate_up, wide = torch.randn(tokens, 2 * shape.intermediate), torch.empty(tokens, shape.intermediate)
    out = torch.empty_like(x)
    runs: dict[str, tuple[Callable[[int], None], torch.Tensor, torch.Tensor]] = {
        "rms_norm": (lambda _: kernels.rms_norm(out, x, weight, 1e-5), x, out),
        "layer_norm": (lambda _: kernels.layer_norm(out, x, weight, weight, 1e-5), x, out),
        "gated_activation silu": (lambda _: kernels.gated_activation(wide, gate_up, "silu"), gate_up, wide),
    }
    return [(f"{name}, {tokens} tokens", seconds_of(run), a.nbytes + b.nbytes, 0) for name, (run, a, b) in runs.items()]


def measure(shape: Shape) -> list[Measurement]:
    results = [call_overhead(), *elementwise(shape, 64)]
    for dtype in (torch.float32, torch.bfloat16):
        results += [linear(shape, str(dtype).removeprefix("torch."), tokens) for tokens in (1, 16, 64, 256)]
        results += [
            attention(shape, dtype, 64, 100, 1),
            attention(shape, dtype, 64, 500, 1),
            attention(shape, dtype, 1, 512, 512),
        ]
    return results


def measure_kv(shape: Shape) -> list[Measurement]:
    dtypes = (torch.float32, torch.bfloat16, torch.int8)
    return [attention(shape, dtype, 16_000 // context, context, 1) for context in (256, 1000, 4000) for dtype in dtypes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="opt-125m")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--kv", action="store_true", help="decode attention alone, for every dtype of the KV cache")
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    kernels.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"{args.shape}, {kernels.isa_name()}, {args.threads} threads")
    print(f"{'operation':46} {'us':>10} {'GB/s':>8} {'GFLOP/s':>8}")
    results = measure_kv(SHAPES[args.shape]) if args.kv else measure(SHAPES[args.shape])
    for name, seconds, num_bytes, operations in results:
        rates = [f"{amount / seconds / 1e9:.1f}" if amount else "" for amount in (num_bytes, operations)]
        print(f"{name:46} {seconds * 1e6:10.2f} {rates[0]:>8} {rates[1]:>8}")
    if args.save:
        rows = [{"operation": n, "seconds": s, "bytes": b, "operations": o} for n, s, b, o in results]
        setting = {"shape": args.shape, "isa": kernels.isa_name(), "threads": args.threads}
        name = f"{'kv-dtypes' if args.kv else 'kernels'}-{args.shape}"
        print(results_file.save(name, " ".join(sys.argv), setting | {"operations": rows}))


if __name__ == "__main__":
    main()
