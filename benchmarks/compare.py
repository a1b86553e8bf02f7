"""pagecli beside installed peers on one workload: speed, whole-process time, memory, and whether they made the same tokens.

    python benchmarks/compare.py --model opt-125m --dtype float32 --sample 16 --repeat 3 --save
    python benchmarks/compare.py --model smollm2-135m --dtype bfloat16 --peers openvino-genai,llama-cpp-16
    python benchmarks/compare.py --whole-process                 # 16 rows, from the start of the process to the last token
    python benchmarks/compare.py --list                          # every peer, and how to install it

Every system runs in a process of its own, in turn (A B A B), over the same token ids, greedy, each output to its exact length.
Peers live in virtual environments under --peers-home and read models that peers/prepare.py makes there; one that is missing or
fails is a line that says why. More in benchmarks/peers/README.md.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

import results_file
from comparison import table, workload
from comparison.runs import Case, run
from peers.catalog import DTYPES, MODELS, PAGECLI, SYSTEMS, why_not

WHOLE_PROCESS_ROWS = 16
LONG_REQUESTS = 64


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="opt-125m", choices=MODELS)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--workload", default="short", choices=["short", "long"])
    parser.add_argument("--requests", type=int, help="default: 128; long: 64; --whole-process: 16")
    parser.add_argument("--whole-process", action="store_true", help="time from the start of the process to the last token")
    parser.add_argument("--peers", default=",".join(name for name in SYSTEMS if name != PAGECLI), help="default: all")
    parser.add_argument("--repeat", type=int, default=1, help="rounds")
    parser.add_argument("--sample", default="", metavar="N|SYSTEM=N,...", help="rows of the slow systems, or of those named")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kv-gib", type=int, default=4, help="KV cache of the systems that take a size")
    parser.add_argument("--peers-home", type=Path, default=Path(os.environ.get("PEERS_HOME", "~/.cache/pagecli-peers")))
    parser.add_argument("--wrap", default="", metavar="COMMAND", help="put before every run, such as 'taskset -c 0,1'")
    parser.add_argument("--limit-seconds", type=int, default=600, help="of one run")
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    parser.add_argument("--list", action="store_true", help="say of every peer whether it can run, and how to install it")
    args = parser.parse_args(argv)
    args.peers_home = args.peers_home.expanduser().resolve()
    args.peers = [name for name in args.peers.split(",") if name]
    for name in args.peers:
        if name not in SYSTEMS:
            parser.error(f"no peer {name!r}; there are {', '.join(name for name in SYSTEMS if name != PAGECLI)}")
    if args.requests is None:
        args.requests = WHOLE_PROCESS_ROWS if args.whole_process else LONG_REQUESTS if args.workload == "long" else 128
    try:
        args.sample = samples(args.sample)
    except ValueError as error:
        parser.error(str(error))
    return args


def samples(text: str) -> dict[str, int]:
    """{system: rows} from "16" (every slow system) or "ctranslate2=64,transformers-single=8", or both."""
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, count = part.rpartition("=")
        if not count.isdecimal() or int(count) < 1 or (name and name not in SYSTEMS):
            raise ValueError(f"--sample: {part!r} is neither a number of rows nor SYSTEM=ROWS")
        chosen = [name] if name else [system for system, peer in SYSTEMS.items() if peer.slow and system not in found]
        found |= dict.fromkeys(chosen, int(count))
    return found


def measure(names: list[str], case: Case, requests: workload.Requests, args: argparse.Namespace) -> table.Runs:
    """Every system in turn, `repeat` times; says each run as it ends."""
    runs: table.Runs = {name: [] for name in names}
    for _ in range(args.repeat):
        for name in names:
            done = run(name, case, requests.first(args.sample.get(name)))
            runs[name].append(done)
            figure = done.error or f"{done.tokens_per_second:8.1f} tokens/s  ({done.seconds:.1f} s)"
            print(f"{name:24} {figure}", file=sys.stderr, flush=True)
    return runs


def result_name(args: argparse.Namespace) -> str:
    parts = ["compare", args.model, args.dtype, str(args.requests)]
    return "-".join(
        [*parts, *(["long"] if args.workload == "long" else []), *(["whole-process"] if args.whole_process else [])]
    )


def describe(args: argparse.Namespace, requests: workload.Requests) -> str:
    machine = results_file.machine()
    prompts, outputs = sum(map(len, requests.prompts)), sum(requests.lengths)
    return (
        f"{args.model}, {args.dtype}, {args.requests} requests: {prompts:,} prompt and {outputs:,} output tokens\n"
        f"{machine['cpu']}, {' '.join(machine['isa'])}, {args.threads} threads on {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB"
    )


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    names = [PAGECLI, *(name for name in args.peers if name != PAGECLI)]
    missing = {name: reason for name in names if (reason := why_not(name, args.model, args.dtype, args.peers_home))}
    if args.list:
        print("\n".join(f"{name}: {missing.get(name, 'ready')}" for name in names))
        return
    wrap = tuple(shlex.split(args.wrap))
    case = Case(
        args.model, args.dtype, args.threads, args.kv_gib, args.whole_process, args.peers_home, wrap, args.limit_seconds
    )
    requests = workload.draw(args.workload, args.requests)
    runs = measure([name for name in names if name not in missing], case, requests, args)
    print(describe(args, requests), end="\n\n")
    print(table.markdown(table.rows(runs, args.whole_process)), end="\n\n")
    print("\n".join(table.closing_lines(runs, missing)))
    if args.save and table.speed(runs.get(PAGECLI, [])) is None:
        print("nothing is kept: pagecli has no result", file=sys.stderr)
    elif args.save:
        command = shlex.join(["python", "benchmarks/compare.py", *(sys.argv[1:] if argv is None else argv)])
        print(results_file.save(result_name(args), command, table.kept(runs, missing)))


if __name__ == "__main__":
    main()
