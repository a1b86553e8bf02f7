"""Replays in the PagedAttention paper's setting, its results beside ours, and how long a long replay takes.

    python benchmarks/replay.py --save
    python benchmarks/replay.py --requests 2000 --long 0

OPT-13B on one A100-40GB: 15,728 KV slots. Each workload with all requests there from the start, as in a batch job; at the
paper's request rate with the roofline's step times; and so with the slower steps that the paper's own mean batches imply.
"""

import argparse
import sys
import time
from dataclasses import asdict

import results_file

from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.roofline import StepTime
from pagecli.profiler.recording.records import PolicyResult
from pagecli.profiler.replay.last_block_waste import DEFAULT_BLOCK_SIZES, waste_by_block_size
from pagecli.profiler.replay.papers import system_for
from pagecli.profiler.replay.replay import DEFAULT_CASES, replay, replay_case
from pagecli.profiler.replay.replay_clock import ReplaySettings
from pagecli.profiler.workloads.workloads import built_in

SLOTS = 15_728
PAPER_RATES = {"sharegpt": 2.0, "alpaca": 30.0}  # requests/s of figure 13
# By Little's law a batch of 30.42 at 2 x 337.99 tokens/s means steps of 45 ms, and 132.44 at 30 x 58.45 means 75.5 ms;
# the roofline has 26 and 28 for such batches. The rest, in seconds, the system of 2023 took beside reading and computing.
PAPER_OVERHEADS = {"sharegpt": 0.019, "alpaca": 0.0475}


def show(result: PolicyResult, workload: str) -> None:
    """One row, the paper's below it."""
    s = result.shares
    ours = (s.token_states, s.reservation, s.internal_fragmentation, s.external_fragmentation, s.free)
    cells = " ".join(f"{share:6.1f}" for share in ours)
    speed = f"{result.output_tokens_per_second:8,.0f} tokens/s"
    name = f"{result.policy:15} {result.batching:11}"
    print(f"  {name} {cells} {result.mean_batch:8.2f} {speed} {result.num_preemptions:6,} preempted")
    paper = system_for(result.policy, result.batching)
    if paper:
        theirs = (paper.token_states, paper.reservation, paper.internal_fragmentation, paper.external_fragmentation, None)
        cells = " ".join(f"{'-' if share is None else share:>6}" for share in theirs)
        print(f"    paper, {paper.name:20} {cells} {paper.mean_batch[workload]:8.2f}")


def step_time(overhead_seconds: float = 0.0) -> StepTime:
    config = resolve_model("opt-13b", "dummy").config
    return StepTime(config, find_gpu("a100-40gb"), overhead_seconds=overhead_seconds)


def compare(num_requests: int, timer: StepTime) -> dict[str, list[dict]]:
    """Both workloads, all at once and at the paper's rate."""
    found: dict[str, list[dict]] = {}
    print("% of KV slots: token states, reservation, internal, external fragmentation, free; mean batch")
    for name, rate in PAPER_RATES.items():
        at_once, overhead = built_in(name, num_requests), PAPER_OVERHEADS[name]
        slower = step_time(overhead)
        for label, workload, steps in (
            (f"{name}, all at once", at_once, timer),
            (f"{name}, {rate:g} requests/s", at_once.with_rate(rate), timer),
            (f"{name}, {rate:g} requests/s, steps {1000 * overhead:g} ms longer", at_once.with_rate(rate), slower),
        ):
            print(f"{label}: {num_requests:,} requests")
            results = replay(workload, ReplaySettings(SLOTS), steps)
            for result in results:
                show(result, name)
            found[label] = [asdict(result) for result in results]
    return found


def time_long(num_requests: int, timer: StepTime) -> dict[str, float]:
    """Seconds that a replay of so many requests takes under each policy, workload included."""
    seconds = {}
    for case in DEFAULT_CASES:
        started = time.perf_counter()
        replay_case(built_in("sharegpt", num_requests), ReplaySettings(SLOTS), timer, case)
        seconds[f"{case.policy} {case.batching}"] = time.perf_counter() - started
        print(f"{num_requests:,} requests, {case.policy} {case.batching}: {time.perf_counter() - started:.1f} s", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--long", type=int, default=20_000, help="requests of the replay that is timed; 0: none")
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    timer = step_time()
    results: dict[str, object] = {"requests": args.requests, **compare(args.requests, timer)}
    wastes = [w for name in PAPER_RATES for w in waste_by_block_size(built_in(name, args.requests), DEFAULT_BLOCK_SIZES)]
    for waste in wastes:
        print(f"empty slots in blocks of {waste.block_size:3}, {waste.workload}: {waste.wasted_percent:.2f} %")
    results["last_block_waste"] = [asdict(waste) for waste in wastes]
    if args.long:
        results["long_requests"], results["long_seconds"] = args.long, time_long(args.long, timer)
    if args.save:
        print(results_file.save("replay", " ".join(["python", "benchmarks/replay.py", *sys.argv[1:]]), results))


if __name__ == "__main__":
    main()
