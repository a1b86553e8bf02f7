"""A fuzzing campaign guided by coverage (atheris, libFuzzer) over all targets; counts its runs and keeps them in a file.

    python tests/fuzz/campaign.py --runs 100000 --save      each target so often, then benchmarks/results/fuzzing-DATE.json
    python tests/fuzz/campaign.py --target csv_file --runs 1000000

A target that fails leaves its input in tests/fuzz/crashes/ and the campaign continues with the next; the exit code is then 1.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CRASHES = HERE / "crashes"
# Run so many times less: they read files, or what they call is slow.
SLOW_TARGETS = {
    "jsonl_file": 10,
    "csv_file": 10,
    "merge_part": 10,
    "journal_file": 5,
    "parquet_file": 50,
    "template": 5,
    "safetensors_header": 10,
}
RSS_LIMIT_MIB = 2048  # an input that makes the process larger is a failure
TIMEOUT_SECONDS = 20  # so is one that takes longer
INSTRUMENTED = ("pagecli", "jinja2")  # packages whose branches guide the search


def run_one(target: str, arguments: list[str]) -> None:
    """Fuzzes `target` in this process, which ends with it."""
    import atheris
    from targets import FOLDER, TARGETS

    for name in [name for name in sys.modules if name.split(".")[0] in INSTRUMENTED]:
        for function in functions_of(sys.modules[name]):
            atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


def functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """The functions and methods that the module defines. (atheris' own import hook leaves some modules out.)"""
    for value in list(vars(module).values()):
        members = list(vars(value).values()) if isinstance(value, type) and value.__module__ == module.__name__ else [value]
        for member in members:
            function = getattr(member, "__func__", member)
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


def campaign_of(target: str, runs: int, seed: int) -> dict[str, Any]:
    """Fuzzes `target` in a process of its own; what came of it."""
    from seeds import seeds_of

    CRASHES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, content in enumerate(seeds_of(target)):
            (Path(corpus) / f"seed-{number}").write_bytes(content)
        limits = [f"-rss_limit_mb={RSS_LIMIT_MIB}", f"-timeout={TIMEOUT_SECONDS}", "-max_len=4096", "-print_final_stats=1"]
        command = [sys.executable, __file__, "--inside", target, f"-atheris_runs={runs}", f"-seed={seed}", *limits, corpus]
        started = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}"}
        ended = subprocess.run(
            [*command[:-1], f"-artifact_prefix={CRASHES}/{target}-", corpus], capture_output=True, text=True, env=environment
        )
        seconds = time.perf_counter() - started
        corpus_size = len(os.listdir(corpus))
    executed = [int(count) for count in re.findall(r"(?:number_of_executed_units:|Done|#)\s*(\d+)", ended.stderr)]
    failed = ended.returncode != 0
    if failed:
        print(ended.stderr[-3000:], file=sys.stderr)
    return {"runs": max(executed, default=0), "failed": failed, "seconds": round(seconds, 1), "corpus": corpus_size}


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        run_one(sys.argv[2], sys.argv[3:])
        return 0
    from targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    found = {}
    for target in options.target or TARGETS:
        found[target] = campaign_of(target, options.runs // SLOW_TARGETS.get(target, 1), options.seed)
        print(target, json.dumps(found[target]), flush=True)
        if options.save:
            save({target: found[target]}, options.seed)
    total, failures = sum(one["runs"] for one in found.values()), sum(one["failed"] for one in found.values())
    print(f"{total:,} inputs over {len(found)} targets, {failures} failures")
    return 1 if failures else 0


def save(found: dict[str, Any], seed: int) -> None:
    """Into the day's file, beside what other runs of the day found of other targets."""
    today = datetime.date.today().isoformat()
    path = RESULTS / f"fuzzing-{today}.json"
    earlier = json.loads(path.read_text())["targets"] if path.exists() else {}
    targets = {**earlier, **{name: {**result, "seed": seed} for name, result in found.items()}}
    result = {
        "what": "fuzzing campaign",
        "date": today,
        "inputs": sum(one["runs"] for one in targets.values()),
        "failures": sum(one["failed"] for one in targets.values()),
        "targets": targets,
        "command": "python tests/fuzz/campaign.py " + " ".join(sys.argv[1:]),
        "versions": {"python": platform.python_version(), "atheris": importlib.metadata.version("atheris")},
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
