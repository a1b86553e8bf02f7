"""Output tokens/s of a checkpoint whose quantized weights stay so in memory, beside the same weights dequantized at load.

    python benchmarks/quantized_weights.py --save                # SmolLM2's Q4_1 file, 1 and 64 requests at once
    python benchmarks/quantized_weights.py --dtype float32 --widths 1

Both are loaded in one process and run in turn, the same requests of 16 + 128 tokens, greedy; figures are medians of the rounds.
"""

import argparse
import statistics
import sys

import results_file
from roofline import generate

from pagecli.core.engine_config import EngineConfig
from pagecli.engine.engine import Engine

KINDS = ("keep", "dequantize")
REQUEST = (16, 128)  # tokens of a prompt and of its output


def measure(engines: dict[str, Engine], width: int, rounds: int) -> dict[str, object]:
    """Tokens per second by kind, and how many times as fast the kept ones are, in the middle round."""
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for engine in engines.values():
        generate(engine, [(16, 4)] * width)  # first uses
    for _ in range(rounds):
        for kind, engine in engines.items():
            took[kind].append(width * REQUEST[1] / generate(engine, [REQUEST] * width)[0])
    ratios = [kept / other for kept, other in zip(took["keep"], took["dequantize"], strict=True)]
    medians = {kind: statistics.median(speeds) for kind, speeds in took.items()}
    return {"at_once": width, "tokens_per_second": medians, "ratio": statistics.median(ratios), "all": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--widths", default="1,64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    settings = {"model": args.model, "dtype": args.dtype, "prefix_caching": False, "speculate": 0}
    engines = {kind: Engine(EngineConfig(**settings, quantization=kind)) for kind in KINDS}
    sizes = {kind: engine.stats()["weight_bytes"] for kind, engine in engines.items()}
    print(", ".join(f"{kind}: {size / 2**20:,.0f} MiB of weights" for kind, size in sizes.items()))
    rows = []
    for width in map(int, args.widths.split(",")):
        rows.append(row := measure(engines, width, args.rounds))
        speeds = ", ".join(f"{kind} {speed:,.1f} tokens/s" for kind, speed in row["tokens_per_second"].items())
        print(f"{width} at once: {speeds}; {row['ratio']:.2f} times")
    if args.save:
        command = " ".join(["python", "benchmarks/quantized_weights.py", *sys.argv[1:]])
        print(results_file.save(f"quantized-{args.model}-{args.dtype}", command, {"weight_bytes": sizes, "rows": rows}))


if __name__ == "__main__":
    main()
