"""Output tokens/s by how many requests may run at once, and what memory a run takes beside its weights and its KV cache.

    python benchmarks/concurrency.py --dtype int8 --save     # 1 to 512 at once, of the same short requests

Requests are 4 for each that may run at once, between 16 and 512, so that most of a run is at its full width. Sizes run one
after the other on one loaded model; memory is what the process holds after each.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import results_file
from rich.console import Console
from rich.table import Table
from roofline import MODELS, generate

from pagecli.core.engine_config import EngineConfig
from pagecli.engine.engine import Engine
from pagecli.profiler.workloads import drawn_lengths

MIB = 2**20


def resident_bytes() -> int:
    """Of this process now, in bytes, without the pages of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def measure(settings: dict, widths: list[int], most_requests: int) -> list[dict]:
    """One row a width: tokens per second, steps, memory."""
    rows, loaded = [], None
    for width in widths:
        engine = Engine(EngineConfig(**settings, max_num_seqs=width), loaded)
        loaded = engine.loaded
        lengths = drawn_lengths.draw(drawn_lengths.SHORT, min(most_requests, max(16, 4 * width)))
        generate(engine, lengths[:2])  # first uses
        seconds, num_steps = generate(engine, lengths)
        stats: dict[str, Any] = engine.stats()
        rows.append(
            {
                "at_once": width,
                "requests": len(lengths),
                "steps": num_steps,
                "seconds": seconds,
                "tokens_per_second": sum(output for _, output in lengths) / seconds,
                "resident_bytes": resident_bytes(),
                "weight_bytes": stats["weight_bytes"],
                "kv_bytes": stats["kv_blocks_peak"] * stats["kv_block_size"] * stats["kv_bytes_per_token"],
            }
        )
        print(f"{width} at once: {rows[-1]['tokens_per_second']:,.1f} tokens/s", file=sys.stderr)
        del engine
    return rows


def show(console: Console, title: str, rows: list[dict]) -> None:
    table = Table(title=title)
    for heading in ("at once", "requests", "tokens/s", "steps", "resident MiB", "weights", "KV", "the rest"):
        table.add_column(heading, justify="right")
    for r in rows:
        rest = r["resident_bytes"] - r["weight_bytes"] - r["kv_bytes"]
        sizes = (f"{size / MIB:,.0f}" for size in (r["resident_bytes"], r["weight_bytes"], r["kv_bytes"], rest))
        table.add_row(str(r["at_once"]), str(r["requests"]), f"{r['tokens_per_second']:,.1f}", f"{r['steps']:,}", *sizes)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="opt-125m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8", "int8-a16"], default="int8")
    parser.add_argument("--widths", default="1,2,4,8,16,32,64,128,256,512")
    parser.add_argument("--requests", type=int, default=512, help="at most")
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    widths = [int(width) for width in args.widths.split(",")]
    settings = {"model": args.model, "load_format": MODELS[args.model], "dtype": args.dtype, "prefix_caching": False}
    rows = measure(settings, widths, args.requests)
    show(Console(width=None if sys.stdout.isatty() else 128), f"{args.model}, {args.dtype}", rows)
    if args.save:
        command = " ".join(["python", "benchmarks/concurrency.py", *sys.argv[1:]])
        print(results_file.save(f"concurrency-{args.model}-{args.dtype}", command, rows))


if __name__ == "__main__":
    main()
