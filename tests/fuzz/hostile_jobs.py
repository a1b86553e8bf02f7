"""Whole jobs over hostile input, in this process: `pagecli generate` from its flags to the file it writes, with a tiny model.

    python tests/fuzz/hostile_jobs.py --rows 100000 --parquet-files 2000 --save

Every input row must end as its output rows or as one error row; the exit code is 5 if there is an error row, else 0. Files
damaged at random may be refused as unreadable (3) too. An input that fails is kept in tests/fuzz/crashes/, and the exit code
is then 1.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(HERE.parent), str(HERE)]

import hostile_rows  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from pagecli.errors import ErrorCode  # noqa: E402

RESULTS, CRASHES = ROOT / "benchmarks" / "results", HERE / "crashes"
ROWS_A_FILE = 500
OUTPUTS = ["out.jsonl", "out.parquet", "out.jsonl", "out.jsonl.gz"]
FLAGS: list[list[str]] = [
    *([], [], ["--no-journal"], ["--order", "completion"], ["--token-ids"], ["--logprobs", "2"], ["--no-chat"]),
    *(
        ["--system", "s"],
        ["--too-long", "truncate-left"],
        ["--temperature", "0.7"],
        ["--shard", "1/1"],
        ["--sample", "0.999999"],
    ),
]


@dataclass
class Tally:
    """What came of the jobs of one kind of input."""

    num_files: int = 0
    num_rows: int = 0
    exit_codes: Counter[int] = field(default_factory=Counter)
    error_codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Jobs:
    """Runs jobs with one engine, which is loaded once. A context manager."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._engine: Any = None

    def __enter__(self) -> "Jobs":
        from pagecli.engine import engine as engine_module

        self._class = engine_module.Engine
        engine_module.Engine = self._load  # type: ignore[assignment,misc]
        return self

    def __exit__(self, *problem: object) -> None:
        from pagecli.engine import engine as engine_module

        engine_module.Engine = self._class  # type: ignore[misc]

    def _load(self, config: Any, **options: Any) -> Any:
        if self._engine is None:
            self._engine = self._class(config, **options)
        return self._engine

    def run(self, name: str, content: bytes, num_rows: int, chance: random.Random, tally: Tally, allowed: set[int]) -> None:
        """One job over the file; a problem is noted in the tally and the file kept."""
        output = self._folder / chance.choice(OUTPUTS)
        flags = ["--overwrite", "--max-tokens", "2", "--model", str(self._model), "--kv-memory", "8MiB", *chance.choice(FLAGS)]
        (self._folder / name).write_bytes(content)
        code, said = run_program(["generate", str(self._folder / name), str(output), *flags])
        tally.num_files += 1
        tally.num_rows += num_rows
        tally.exit_codes[code] += 1
        problem = None if code in allowed else f"exit code {code}: {said.strip()[-2000:]}"
        if problem is None and code in (0, 5):
            problem = self._check(output, num_rows, code, tally, is_sample="--sample" in flags)
        if problem is not None:
            CRASHES.mkdir(exist_ok=True)
            kept = CRASHES / f"job-{len(tally.failures)}-{time.time_ns()}-{name}"
            kept.write_bytes(content)
            tally.failures.append(f"{kept.name} {output.name} {' '.join(flags)}: {problem}")
            print(tally.failures[-1], file=sys.stderr, flush=True)

    def _check(self, output: Path, num_rows: int, code: int, tally: Tally, is_sample: bool) -> str | None:
        try:
            records = read_back(output)
        except ValueError as error:
            return f"the output is not strict: {error}"
        errors = [record["error_code"] for record in records if record["error_code"] is not None]
        tally.error_codes.update(errors)
        found = sum(record["sample"] == 0 for record in records)
        if found != num_rows and not (is_sample and found < num_rows):
            return f"{found} of {num_rows} rows are there"
        if set(errors) - set(ErrorCode):
            return f"unknown error codes: {set(errors) - set(ErrorCode)}"
        return None if (code == 5) == bool(errors) else f"{len(errors)} error rows, but exit code {code}"


def run_program(arguments: list[str]) -> tuple[int, str]:
    """The exit code of `pagecli ARGUMENTS` in this process, and what it said."""
    from pagecli.cli.app import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            main(arguments)
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
        except BaseException as error:
            return -1, f"{type(error).__name__}: {error}"
    return 0, said.getvalue()


def read_back(output: Path) -> list[dict[str, Any]]:
    """Whether each row is an error, and its sample; a batch answer is one row. Raises ValueError for what is no JSON."""
    if output.suffix == ".parquet":
        with pq.ParquetFile(output) as file:
            return file.read(["sample", "error_code"]).to_pylist()
    import gzip

    content = output.read_bytes()
    text = (gzip.decompress(content) if output.suffix == ".gz" else content).decode("utf-8")
    records = [json.loads(line, parse_constant=_refuse) for line in text.split("\n")[:-1]]
    return [_as_row(record) for record in records]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} in the output")


def _as_row(record: dict[str, Any]) -> dict[str, Any]:
    if "custom_id" in record and "response" in record and "sample" not in record:
        return {"sample": 0, "error_code": (record["error"] or {}).get("code")}
    return record


def json_job(jobs: Jobs, chance: random.Random, tally: Tally, num_rows: int = ROWS_A_FILE) -> None:
    content = hostile_rows.json_lines(chance, num_rows, batch=chance.random() < 0.25)
    jobs.run("in.jsonl", content, num_rows, chance, tally, {0, 5})


def parquet_job(jobs: Jobs, chance: random.Random, tally: Tally) -> None:
    content, num_rows = hostile_rows.parquet_file(chance)
    jobs.run("in.parquet", content, num_rows, chance, tally, {0, 5})


def damaged_job(jobs: Jobs, chance: random.Random, tally: Tally) -> None:
    """A file with changed bytes: refused in one line, or what can be read of it."""
    content, _ = hostile_rows.parquet_file(chance)
    content = hostile_rows.damaged(chance, content)
    try:
        num_rows = pq.ParquetFile(io.BytesIO(content)).metadata.num_rows
    except Exception:
        num_rows = -1
    jobs.run("in.parquet", content, max(0, num_rows), chance, tally, {0, 3, 5})


def campaign(model: Path, counts: dict[Callable[..., None], int], seed: int, seconds: float = float("inf")) -> dict[str, Tally]:
    """Each kind of job so often, or until the time is over."""
    tallies: dict[str, Tally] = {}
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, Jobs(model, Path(folder)) as jobs:
        for job, count in counts.items():
            if not count:
                continue
            tally = tallies.setdefault(job.__name__, Tally())
            for number in range(count):
                if time.monotonic() > until:
                    break
                job(jobs, random.Random(f"{seed} {job.__name__} {number}"), tally)
    return tallies


def save(found: dict[str, Any]) -> None:
    """Into the day's file, beside what other runs of the day found for other kinds of jobs."""
    today = datetime.date.today().isoformat()
    path = RESULTS / f"fuzzing-jobs-{today}.json"
    earlier = json.loads(path.read_text())["jobs"] if path.exists() else {}
    versions = {"python": platform.python_version(), "pyarrow": importlib.metadata.version("pyarrow")}
    result = {
        "what": "whole jobs over hostile input, 2-layer model",
        "date": today,
        "jobs": {**earlier, **found},
        "versions": versions,
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="of JSON")
    parser.add_argument("--parquet-files", type=int, default=2000)
    parser.add_argument("--damaged-files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results")
    options = parser.parse_args()
    import tiny_models

    started = time.perf_counter()
    counts = {json_job: options.rows // ROWS_A_FILE, parquet_job: options.parquet_files, damaged_job: options.damaged_files}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PAGECLI_CACHE_DIR"] = folder
        tallies = campaign(tiny_models.build("opt", Path(folder) / "model"), counts, options.seed)
    found = {
        name: {
            **vars(tally),
            "exit_codes": dict(tally.exit_codes),
            "seed": options.seed,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "command": "python tests/fuzz/hostile_jobs.py " + " ".join(sys.argv[1:]),
        }
        for name, tally in tallies.items()
    }
    print(json.dumps({**found, "seconds": round(time.perf_counter() - started)}, indent=2))
    if options.save:
        save(found)
    return 1 if any(tally.failures for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
