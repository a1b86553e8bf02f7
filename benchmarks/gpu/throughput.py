"""Part 3: output tokens per second of whole models on one GPU, beside transformers and, where it is installed, vLLM.

    python throughput.py --out DIR [--limit SECONDS] [--tiny]

Every system runs in a process of its own (systems.py), in turn, over the same requests and shapes. A process that passes its
limit is stopped; what it had measured stays. DIR/throughput.json and .md are written after every process.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systems import results_in

HERE = Path(__file__).resolve().parent
START_SECONDS = 45  # what a process may take before and after it generates
PAPER = "published (vLLM, 2023): up to 24 times transformers' throughput, and 3.5 times that of TGI"


@dataclass(frozen=True, slots=True)
class Job:
    """One process. `seconds`: of generation, where the part has its whole default limit."""

    system: str
    model: str
    requests: int
    seconds: float
    arguments: tuple[str, ...] = ()


DEFAULT_LIMIT = 200.0
JOBS = [
    Job("pagecli", "opt-13b", 1000, 60),
    Job("transformers", "opt-13b", 1000, 50),
    Job("pagecli", "llama-3-8b", 500, 12, ("--samples", "1")),
    Job("pagecli", "llama-2-13b", 300, 12, ("--samples", "1")),
    Job("pagecli", "llama-3-8b", 500, 12, ("--samples", "1", "--dtype", "fp8")),
    Job("vllm", "opt-13b", 1000, 60),
    Job("transformers", "llama-3-8b", 500, 40),
    Job("vllm", "llama-3-8b", 500, 40),
]
TINY_JOBS = [Job("pagecli", "opt-13b", 6, 60), Job("transformers", "opt-13b", 3, 60), Job("vllm", "opt-13b", 3, 60)]


def run_job(job: Job, out: Path, tiny: bool, scale: float, left: float) -> list[dict[str, Any]]:
    """What the process measured, and a row of its own if it did not end well."""
    about = {"system": job.system, "model": job.model}
    if job.system == "vllm" and importlib.util.find_spec("vllm") is None:
        return [about | {"way": "vLLM", "error": "not installed"}]
    seconds = min(job.seconds * scale, left - START_SECONDS)
    if seconds <= 2:
        return [about | {"way": job.system, "error": "no time was left"}]
    command = [sys.executable, str(HERE / "systems.py"), job.system, "--model", job.model, "--requests", str(job.requests)]
    command += ["--seconds", str(seconds), "--out", str(out), *job.arguments, *(["--tiny"] if tiny else [])]
    rows, error = output_of(command, min(left, seconds + START_SECONDS))
    rows = [about | row for row in rows]
    return rows if error is None else [*rows, about | {"way": job.system, "error": error}]


def output_of(command: list[str], limit: float) -> tuple[list[dict[str, Any]], str | None]:
    """(measurements, why the process did not end well or None); it is ended with all it started when `limit` has passed."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=None, start_new_session=True)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            stop(process)
            code = None
        output.seek(0)
        text = output.read()
    print("\n".join(line for line in text.splitlines() if line.strip()), flush=True)
    if code is None:
        return list(results_in(text)), f"stopped after {limit:.0f} s"
    return list(results_in(text)), None if code == 0 else f"exit code {code}"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and the group it leads."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | system | tokens/s | times one by one | of the roofline | mean batch | requests | J/token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    single = {row["model"]: row["tokens_per_second"] for row in rows if "one by one" in row["way"] and "error" not in row}
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['model']} | {row['way']} | {row['error']} | - | - | - | - | - |")
            continue
        times = f"{row['tokens_per_second'] / single[row['model']]:.1f}" if row["model"] in single else "-"
        share = f"{row['roofline_share']:.0%}" if "roofline_share" in row else "-"
        batch = f"{row['mean_running']:.1f}" if "mean_running" in row else "-"
        asked = f"{row['requests']}{'' if row['whole'] else ', stopped'}"
        joules = "-" if row["joules_per_token"] is None else f"{row['joules_per_token']:.3f}"
        speed = f"{row['tokens_per_second']:,.0f}"
        lines.append(f"| {row['model']} | {row['way']} | {speed} | {times} | {share} | {batch} | {asked} | {joules} |")
    return "\n".join([*lines, "", PAPER, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=DEFAULT_LIMIT, help="seconds for all of it; the shares grow with it")
    parser.add_argument("--models", nargs="*", help="only these")
    parser.add_argument("--systems", nargs="*", help="only these")
    parser.add_argument("--tiny", action="store_true", help="the same at next to no size: shows that it runs")
    options = parser.parse_args()
    started, rows = time.perf_counter(), []
    options.out.mkdir(parents=True, exist_ok=True)
    for job in TINY_JOBS if options.tiny else JOBS:
        if (options.models and job.model not in options.models) or (options.systems and job.system not in options.systems):
            continue
        left = options.limit - (time.perf_counter() - started)
        rows += run_job(job, options.out, options.tiny, max(1.0, options.limit / DEFAULT_LIMIT), left)
        (options.out / "throughput.json").write_text(json.dumps(rows, indent=2) + "\n")
        (options.out / "throughput.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
