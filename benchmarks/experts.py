"""`grouped_linear` beside `linear` of the same products: gate and up of a mixture of experts, experts chosen at random.

    python benchmarks/experts.py --save                   # two models' shapes, three dtypes, M = 1 and 64
    python benchmarks/experts.py --dtype bfloat16

At M = 1 both read the same bytes: the chosen experts' weights, or one matrix as large. At M = 64 both multiply as much, but the
dense matrix is as large as the experts that one token chooses, while the rows of a batch choose nearly all experts, few rows
each: reading them takes the time, so that GB/s are the measure there too. Both are measured in turn (A B A B), lower
quartiles; weights come from memory, as in a model (benchmarks/linear.py).
"""

import results_file
import torch
from linear import COPIES_BYTES, in_turn, parse_options, read_bandwidth

from pagecli.devices.cpu import kernels

# name: (hidden size, rows of gate and up, experts, experts of a token)
SHAPES = {"olmoe-1b-7b": (2048, 2048, 64, 8), "qwen3-30b-a3b": (2048, 1536, 128, 8)}
DTYPES = ("float32", "bfloat16", "int8")
BATCHES = (1, 64)
TABLES = 16  # of choices, taken in turn


def measure(name: str, dtype: str, repeats: int) -> dict[str, object]:
    cols, rows, num_experts, chosen = SHAPES[name]
    values = torch.randn(rows, cols) * cols**-0.5
    experts = kernels.pack_experts((values for _ in range(num_experts)), num_experts, dtype)
    active_bytes = experts.nbytes // num_experts * chosen
    dense = [kernels.pack_weight(values.repeat(chosen, 1), dtype) for _ in range(-(-COPIES_BYTES // active_bytes))]
    result: dict[str, object] = {"shape": name, "dtype": dtype, "batches": {}, "read_gb_s": {}}
    for batch in BATCHES:
        x, flat = torch.randn(batch, cols), torch.empty(batch, chosen * rows)
        out = torch.empty(batch, chosen, rows)
        ids = [torch.rand(batch, num_experts).argsort(dim=1)[:, :chosen].int() for _ in range(TABLES)]
        calls = {
            "grouped": lambda i, x=x, out=out, ids=ids: kernels.grouped_linear(out, x, ids[i % TABLES], experts),
            "linear": lambda i, x=x, flat=flat: kernels.linear(flat, x, dense[i % len(dense)]),
        }
        took = in_turn(calls, repeats)
        result["batches"][batch] = {each: round(2e-9 * batch * chosen * rows * cols / s, 1) for each, s in took.items()}
        read = sum(len(table.unique()) for table in ids) / TABLES * experts.nbytes / num_experts
        sizes = {"grouped": read, "linear": active_bytes}
        result["read_gb_s"][batch] = {each: round(sizes[each] / s / 1e9, 1) for each, s in took.items()}
    return result


def main() -> None:
    options = parse_options(__doc__, "experts", DTYPES, list(SHAPES))
    bandwidth = read_bandwidth() / 1e9
    print(f"{kernels.isa_name()}, {options.threads} threads, read bandwidth {bandwidth:.1f} GB/s")
    print(
        f"{'':14} {'dtype':8}   M = 1: GB/s of weights, of the peak, of linear   M = 64: GB/s, of the peak, GFLOP/s, of linear"
    )
    results = []
    for dtype in [options.dtype] if options.dtype else DTYPES:
        for name in [options.shape] if options.shape else SHAPES:
            results.append(measure(name, dtype, options.repeats))
            one, many, rate = *results[-1]["read_gb_s"].values(), results[-1]["batches"][64]
            shares = f"{one['grouped'] / bandwidth:5.0%} {one['grouped'] / one['linear']:5.2f}"
            many_shares = f"{many['grouped'] / bandwidth:5.0%} {rate['grouped']:6.0f} {rate['grouped'] / rate['linear']:5.2f}"
            print(f"{name:14} {dtype:8} {one['grouped']:14.1f} {shares} {many['grouped']:28.1f} {many_shares}", flush=True)
    if options.save:
        body = {"isa": kernels.isa_name(), "threads": options.threads, "read_bandwidth_gb_s": round(bandwidth, 1)}
        print(results_file.save("experts", "python benchmarks/experts.py --save", body | {"gflops": results}))


if __name__ == "__main__":
    main()
