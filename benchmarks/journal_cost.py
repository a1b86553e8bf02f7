"""The cost of the journal: the same job with it and without it, by turns, at about 500 rows a second through a 2-layer model.

    python benchmarks/journal_cost.py --save

The rate is set by --max-tokens. Compared are the CPU time of the process (which other work on the machine disturbs least) and
the rows a second while generating, medians of --repeat runs each; then the time that a row takes in the journal alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results_file
from streaming_memory import write_job

from pagecli.jobs.journal.journal import Journal, JournalContents
from pagecli.jobs.rows.row import InputRow, OutputRow
from pagecli.jobs.storage.job_directory import JobDirectory


def run_once(folder: Path, max_tokens: int, journal: bool, output: str) -> dict[str, float]:
    """CPU seconds of the whole process, and what --stats says."""
    flags = ["--journal" if journal else "--no-journal", "--overwrite", "--quiet", "--stats", str(folder / "stats.json")]
    command = [sys.executable, "-m", "pagecli", "generate", str(folder / "in.jsonl"), str(folder / output), *flags]
    command += ["--model", str(folder / "model"), "--load-format", "dummy", "--max-tokens", str(max_tokens), "--ignore-eos"]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"the job ended with status {status}")
    stats = json.loads((folder / "stats.json").read_text())
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "generate_seconds": stats["generate_seconds"],
        "rows_per_second": stats["num_rows"] / stats["generate_seconds"],
    }


def microseconds_a_row(folder: Path, count: int = 20_000, rows_a_step: int = 5) -> float:
    """Of the journal alone: digest, encoding, checksum and write, as the job's loop calls them."""
    rows = [InputRow(i, {"id": f"row-{i}", "prompt": f"row number {i}"}, line=i + 1) for i in range(count)]
    outputs = [[OutputRow(row, text="some words of text " * 3, finish_reason="length", output_tokens=16)] for row in rows]
    directory = JobDirectory(folder / "alone.jsonl")
    journal = Journal(directory, {}, JournalContents(directory), with_token_ids=False)
    started = time.process_time()
    for i, output in enumerate(outputs):
        journal.append(output)
        if i % rows_a_step == 0:
            journal.commit()
    journal.commit()
    seconds = time.process_time() - started
    journal.close()
    directory.close()
    return seconds / count * 1e6


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", default="out.jsonl")
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    runs: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_job(folder, args.rows)
        for number in range(args.repeat):
            for journal in (True, False) if number % 2 else (False, True):
                runs[journal].append(run_once(folder, args.max_tokens, journal, args.output))
                print(f"journal {'on ' if journal else 'off'}  {runs[journal][-1]}", flush=True)
        alone = microseconds_a_row(folder)
    on, off = medians(runs[True]), medians(runs[False])
    cpu_cost = on["cpu_seconds"] / off["cpu_seconds"] - 1
    rate_cost = 1 - on["rows_per_second"] / off["rows_per_second"]
    print(f"rows/s: {off['rows_per_second']:.0f} without, {on['rows_per_second']:.0f} with: {rate_cost:+.2%}")
    print(f"CPU: {off['cpu_seconds']:.2f} s without, {on['cpu_seconds']:.2f} s with: {cpu_cost:+.2%}")
    print(f"the journal alone: {alone:.1f} us of CPU a row, {alone * 500 / 1e6:.2%} of one core at 500 rows/s")
    if args.save:
        command = " ".join(["python", "benchmarks/journal_cost.py", *sys.argv[1:]])
        results = {"on": runs[True], "off": runs[False], "cpu_cost": cpu_cost, "rate_cost": rate_cost, "alone_us_a_row": alone}
        print(results_file.save("journal-cost", command, results))


if __name__ == "__main__":
    main()
