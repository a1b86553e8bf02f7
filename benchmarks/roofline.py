"""How near the engine comes to what the machine can do: a table of its operations, and tokens/s beside the roofline's.

    python benchmarks/roofline.py --dtype bfloat16 --save       # 128 requests, mean prompt 60, mean output 80
    python benchmarks/roofline.py --single --model smollm2-135m --rounds 15 # one request alone, against the memory's bandwidth

The machine's peak is measured before and after each round of the requests, as clocks and neighbours vary; a round's share is of
the higher of the two, for a neighbour can only lower them. The roofline is the time that all multiplications and additions
take at peak, those of attention at float32's. Operations without any, and linear with one row, are held against the bandwidth
of reading. An LM head with quantized bounds counts as all of its multiplications and as the bounds' bytes: a share of that
operation beyond 100 % says that it did fewer. Where products are cheap (AMX), a decode step waits for weights and KV cache, so
a second share holds the run against its operations one by one, each at whichever peak bounds it. Tokens/s and the
shares are of the round in the middle, run as users have it; the table is of one more run, every operation timed.
"""

import argparse
import dataclasses
import os
import resource
import sys
import time

import machine_peak
import results_file
from machine_peak import Peak
from rich.console import Console
from rich.table import Table
from timed_operations import Total, timed

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cpu import kernels
from pagecli.engine.engine import Engine
from pagecli.profiler.workloads import drawn_lengths
from pagecli.profiler.workloads.prompt_tokens import uniform_ids

MODELS = {"opt-125m": "dummy", "smollm2-135m": "auto"}  # load formats
SINGLE = [(16, 128)]


def generate(engine: Engine, lengths: list[tuple[int, int]]) -> tuple[float, int]:
    """(seconds, steps) of requests of these prompt and output lengths, added at once."""
    started, num_steps = time.perf_counter(), 0
    prompts = uniform_ids(lengths, engine.model_config.vocab_size)
    for i, (prompt, (_, output)) in enumerate(zip(prompts, lengths, strict=True)):
        engine.add_request(i, prompt, SamplingParams(max_tokens=output, ignore_eos=True))
    while engine.has_unfinished():
        engine.step()
        num_steps += 1
    return time.perf_counter() - started, num_steps


def run(engine: Engine, lengths: list[tuple[int, int]], dtype: str, rounds: int = 1) -> dict:
    """The measurements of the middle round: a round is the requests and the machine before and after."""
    generate(engine, lengths[:2])  # first uses
    peaks, took = [machine_peak.measure(dtype)], []
    for _ in range(rounds):
        seconds, num_steps = generate(engine, lengths)
        took.append(seconds)
        peaks.append(machine_peak.measure(dtype))
    with timed(engine.loaded.model) as totals:
        timed_seconds, _ = generate(engine, lengths)
    num_tokens = sum(output for _, output in lengths)
    measured = [
        summary(totals, seconds, num_tokens, before, after)
        for seconds, before, after in zip(took, peaks, peaks[1:], strict=False)
    ]
    measured.sort(key=lambda r: r["share_of_roofline"])
    return (
        measured[len(measured) // 2]
        | operations(totals, timed_seconds, highest(peaks))
        | {
            "rounds": [{name: r[name] for name in ("tokens_per_second", "share_of_roofline")} for r in measured],
            "steps": num_steps,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "weight_bytes": engine.stats()["weight_bytes"],
        }
    )


def highest(peaks: list[Peak]) -> Peak:
    """The highest of each rate."""
    return Peak(*(max(values) for values in zip(*map(dataclasses.astuple, peaks), strict=True)))


def summary(totals: dict[str, Total], seconds: float, num_tokens: int, before: Peak, after: Peak) -> dict:
    """A run's speed beside the roofline of what it computes and reads, and the machine before and after it."""
    peak = highest([before, after])
    linear = sum(t.operations for name, t in totals.items() if name.startswith("linear"))
    attention = sum(t.operations for name, t in totals.items() if name.startswith("paged_attention"))
    weight_bytes = sum(t.num_bytes for name, t in totals.items() if name.startswith("linear"))
    compute_bound, memory_bound = linear / peak.linear + attention / peak.float32, weight_bytes / peak.read
    bound = max(compute_bound, memory_bound)
    one_by_one = sum(least_seconds(name, total, peak) for name, total in totals.items())
    return {
        "output_tokens": num_tokens,
        "seconds": seconds,
        "tokens_per_second": num_tokens / seconds,
        "linear_operations": linear,
        "attention_operations": attention,
        "weight_bytes_read": weight_bytes,
        "roofline_tokens_per_second": num_tokens / bound,
        "bound_by": "computing" if bound == compute_bound else "reading weights",
        "share_of_roofline": bound / seconds,
        "share_of_bandwidth": memory_bound / seconds,
        "share_of_operations": one_by_one / seconds,
        "peak_before": dataclasses.asdict(before),
        "peak_after": dataclasses.asdict(after),
    }


def least_seconds(name: str, total: Total, peak: Peak) -> float:
    """Seconds of the operation at the peak of its multiply-adds or of reading, whichever is longer."""
    best = peak.linear if name.startswith("linear") else peak.float32
    return max(total.operations / best, total.num_bytes / peak.read)


def operations(totals: dict[str, Total], seconds: float, peak: Peak) -> dict:
    """The timed run: rates and shares of its operations, longest first, and what lies between them (timing too)."""
    ordered = sorted(totals.items(), key=lambda item: -item[1].seconds)
    return {
        "timed_seconds": seconds,
        "between_operations_share": 1 - sum(t.seconds for t in totals.values()) / seconds,
        "operations": [row(name, total, seconds, peak) for name, total in ordered],
    }


def row(name: str, total: Total, seconds: float, peak: Peak) -> dict:
    """One operation's line; its rate in GFLOP/s or GB/s, whichever the operation is bound by."""
    best = peak.linear if name.startswith("linear") else peak.float32
    computes = total.operations / best >= total.num_bytes / peak.read
    amount, limit = (total.operations, best) if computes else (total.num_bytes, peak.read)
    rate = amount / total.seconds
    return {
        "operation": name,
        "calls": total.calls,
        "seconds": total.seconds,
        "share": total.seconds / seconds,
        "rate": rate / 1e9,
        "unit": "GFLOP/s" if computes else "GB/s",
        "share_of_peak": rate / limit,
    }


def show(console: Console, title: str, result: dict) -> None:
    table = Table("operation", title=title)
    for heading in ("calls", "seconds", "share", "rate", "of peak"):
        table.add_column(heading, justify="right")
    for r in result["operations"]:
        cells = f"{r['calls']:,}", f"{r['seconds']:.3f}", f"{r['share']:.1%}", f"{r['rate']:,.1f} {r['unit']}"
        table.add_row(r["operation"], *cells, f"{r['share_of_peak']:.0%}")
    between = result["between_operations_share"]
    table.add_row("between operations", "", f"{between * result['timed_seconds']:.3f}", f"{between:.1%}", "", "")
    console.print(table)
    for name, unit in (("linear", "GFLOP/s"), ("float32", "GFLOP/s"), ("read", "GB/s")):
        before, after = (result[f"peak_{when}"][name] / 1e9 for when in ("before", "after"))
        console.print(f"peak {name}: {before:,.1f} {unit} before, {after:,.1f} after")
    console.print(
        f"{result['output_tokens']:,} tokens in {result['seconds']:.2f} s and {result['steps']:,} steps: "
        f"{result['tokens_per_second']:,.1f} tokens/s, {result['share_of_roofline']:.1%} of the roofline's "
        f"{result['roofline_tokens_per_second']:,.1f} (bound by {result['bound_by']}); "
        f"weights read at {result['share_of_bandwidth']:.1%} of the bandwidth; {result['share_of_operations']:.1%} of what its "
        "operations one by one allow"
    )
    shares = [r["share_of_roofline"] for r in result["rounds"]]
    if len(shares) > 1:
        console.print(f"the round in the middle of {len(shares)}, whose shares are {shares[0]:.1%} to {shares[-1]:.1%}")
    console.print(
        f"{result['linear_operations'] / 1e12:.2f} TFLOP in matrices, {result['attention_operations'] / 1e12:.3f} in attention"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="opt-125m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8", "int8-a16"], default="bfloat16")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--max-num-seqs", type=int, default=EngineConfig.__dataclass_fields__["max_num_seqs"].default)
    parser.add_argument("--single", action="store_true", help="one request alone instead")
    parser.add_argument("--rounds", type=int, default=3, help="of the requests, the machine's peak measured between them")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    engine = Engine(
        EngineConfig(
            model=args.model,
            load_format=MODELS[args.model],
            dtype=args.dtype,
            threads=args.threads,
            max_num_seqs=args.max_num_seqs,
            prefix_caching=False,  # the first uses leave nothing behind
            speculate=0,  # the formulas count what each token needs, not drafts
        )
    )
    lengths = SINGLE if args.single else drawn_lengths.draw(drawn_lengths.SHORT, args.requests)
    result = run(engine, lengths, args.dtype, args.rounds)
    result |= {"isa": kernels.isa_name(), "threads": args.threads, "requests": len(lengths)}
    title = f"{args.model}, {args.dtype}, {len(lengths)} requests, {result['isa']}, {args.threads} threads"
    show(Console(width=None if sys.stdout.isatty() else 128), title, result)
    if args.save:
        command = " ".join(["python", "benchmarks/roofline.py", *sys.argv[1:]])
        name = f"roofline-{args.model}-{args.dtype}-{'single' if args.single else args.requests}"
        print(results_file.save(name, command, result))


if __name__ == "__main__":
    main()
