"""GFLOP/s of `linear` beside torch's F.linear, at the batch sizes decode and prefill have; and what packing a model costs.

    python benchmarks/linear.py --save                       # both dtypes, all shapes, about two minutes on two cores
    python benchmarks/linear.py --dtype bfloat16 --shape 768x3072

The two are measured in turn (A B A B). Each time is the lower quartile of the calls': other programs' turns on the cores
only ever add to them. Each call takes another copy of the weight, 128 MiB in all, so that weights come from memory as they do
in a model. The last column is how fast M = 1 reads them, and which share that is of the fastest that torch reads 256 MiB.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import results_file
import torch

from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights.packed_weight import PackedWeight

BATCHES = (1, 4, 12, 24, 60, 128, 252)
SHAPES = ("768x3072", "3072x768", "768x50272", "576x1536")  # K x N: OPT-125m's layers and LM head, SmolLM2's
COPIES_BYTES = 128 << 20
SAMPLE_SECONDS = 0.01


def times(call: Callable[[int], object], first: int) -> list[float]:
    """Seconds of each call number `first`, first + 1, ... of one sample."""
    took: list[float] = []
    while not took or sum(took) < SAMPLE_SECONDS:
        start = time.perf_counter()
        call(first + len(took))
        took.append(time.perf_counter() - start)
    return took


def in_turn(calls: dict[str, Callable[[int], object]], repeats: int) -> dict[str, float]:
    """Lower quartile of the seconds of each, sampled in turn after one sample that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        times(call, 0)
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name] += times(call, len(taken[name]))
    return {name: sorted(values)[len(values) // 4] for name, values in taken.items()}


def read_bandwidth() -> float:
    """Bytes per second that all threads together read from memory, by the better of two ways."""
    matrix, vector = torch.ones(8192, 8192), torch.ones(8192)  # 256 MiB
    took = in_turn({"sum": lambda i: matrix.sum(), "matrix-vector": lambda i: matrix @ vector}, 10)
    return matrix.nbytes / min(took.values())


def measure(shape: str, name: str, repeats: int) -> dict[str, object]:
    dtype = getattr(torch, name)
    cols, rows = map(int, shape.split("x"))
    weight_bytes = rows * cols * dtype.itemsize
    plain = [torch.randn(rows, cols).mul_(cols**-0.5).to(dtype) for _ in range(-(-COPIES_BYTES // weight_bytes))]
    packed = [kernels.pack_weight(weight, name) for weight in plain]
    result: dict[str, object] = {"shape": shape, "dtype": name, "batches": {}}
    for batch in BATCHES:
        took = in_turn(calls(batch, plain, packed), repeats)
        result["batches"][batch] = {name: round(2e-9 * batch * rows * cols / s, 1) for name, s in took.items()}
        if batch == 1:
            result["read_gb_s"] = {name: round(weight_bytes / s / 1e9, 1) for name, s in took.items()}
    return result


def calls(batch: int, plain: list[torch.Tensor], packed: list[PackedWeight]) -> dict[str, Callable[[int], object]]:
    """Both sides' call number i on a batch; torch gets x in the weight's dtype, as a bfloat16 model has it."""
    rows, cols = plain[0].shape
    x = torch.randn(batch, cols)
    out, torch_x, torch_out = torch.empty(batch, rows), x.to(plain[0].dtype), torch.empty(batch, rows, dtype=plain[0].dtype)
    return {
        "pagecli": lambda i: kernels.linear(out, x, packed[i % len(packed)]),
        "torch": lambda i: torch.mm(torch_x, plain[i % len(plain)].T, out=torch_out),
    }


def packing() -> dict[str, float]:
    """Seconds to pack a linear layer's share of OPT-125m: 12 layers of 768 x 9216 and the LM head, from float16."""
    weights = [torch.randn(9216, 768).half() for _ in range(12)] + [torch.randn(50272, 768).half()]
    took = {}
    for dtype in ("float32", "bfloat16"):
        start = time.perf_counter()
        for weight in weights:
            kernels.pack_weight(weight, dtype)
        took[dtype] = round(time.perf_counter() - start, 3)
    return took


def print_row(result: dict[str, object], bandwidth: float) -> None:
    for name in ("pagecli", "torch"):
        label = f"{result['shape']:>10} {result['dtype']:8}" if name == "pagecli" else " " * 19
        rates = "".join(f"{result['batches'][batch][name]:7.0f}" for batch in BATCHES)
        print(
            f"{label} {name:8}{rates}   {result['read_gb_s'][name]:5.1f} GB/s {result['read_gb_s'][name] / bandwidth:5.0%}",
            flush=True,
        )


def parse_options(
    description: str | None, name: str, dtypes: Sequence[str], shapes: Sequence[str] | None
) -> argparse.Namespace:
    """The flags of a benchmark of matrices, its threads set; shapes None: any, K x N."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=dtypes, help="only this one")
    parser.add_argument("--shape", choices=shapes, help="only this one" + ("" if shapes else ", K x N, such as 768x3072"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save", action="store_true", help=f"write benchmarks/results/{name}-DATE.json")
    options = parser.parse_args()
    kernels.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def main() -> None:
    options = parse_options(__doc__, "linear", ["float32", "bfloat16"], None)
    bandwidth = read_bandwidth()
    print(f"{kernels.isa_name()}, {options.threads} threads, read bandwidth {bandwidth / 1e9:.1f} GB/s; GFLOP/s at M =")
    print(f"{'K x N':>10} {'dtype':8} {'':8}" + "".join(f"{batch:7}" for batch in BATCHES) + "   weights at M = 1")
    results = []
    for dtype in [options.dtype] if options.dtype else ["float32", "bfloat16"]:
        for shape in [options.shape] if options.shape else SHAPES:
            results.append(measure(shape, dtype, options.repeats))
            print_row(results[-1], bandwidth / 1e9)
    pack_seconds = packing()
    print(f"packing OPT-125m from float16: {pack_seconds['float32']} s to float32, {pack_seconds['bfloat16']} s to bfloat16")
    if options.save:
        body = {"isa": kernels.isa_name(), "threads": options.threads, "read_bandwidth_gb_s": round(bandwidth / 1e9, 1)}
        print(
            results_file.save("linear", "python benchmarks/linear.py --save", body | {"gflops": results, "pack": pack_seconds})
        )


if __name__ == "__main__":
    main()
