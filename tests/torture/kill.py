"""The torture campaign: a job is killed, starved and damaged at random, run again until done, and must come out unharmed.

    python tests/torture/kill.py --kills 200 --rows 2000 --save

Kills are SIGKILL: by the clock, inside a call of the operating system (the journal's write, the rename, the tidying up, ...),
and while a process of its own starts up. Faults are calls that fail (ENOSPC, EIO, short writes) and files that may not grow.
Between runs the journal is cut, lengthened, or has bits flipped. After each job the output must equal the undisturbed one (JSON
Lines: every byte; Parquet: the table), with nothing left beside it. Counts go to tests/torture/results/ with --save.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import tortured_job
from injected_faults import Fault
from tortured_job import FORMATS, INPUT, ForkedRun

RESULTS = Path(__file__).resolve().parent / "results"
KILL_ACTIONS = ("kill before", "kill within", "kill after")
FAILING = ("pwrite", "fsync", "fdatasync", "link", "mkdir", "open", "ftruncate")
ENDED_GOOD = 5  # the input has bad rows
REFUSED = 2
FAILED_WELL = (3,)  # "output not writable", said in one line


class LossError(AssertionError):
    """What must never happen."""


class Campaign:
    """One output at a time is tortured until it is complete."""

    def __init__(self, folder: Path, num_rows: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._root = folder
        self.counts: Counter[str] = Counter()
        self._reference = folder / "reference"
        tortured_job.write_inputs(self._reference, num_rows)
        self.seconds: dict[str, float] = {}
        self._calls: dict[str, dict[str, int]] = {}
        for output in FORMATS:
            self._measure(output)

    def _measure(self, output: str) -> None:
        """The undisturbed run: what must come out, how long it takes, which calls it makes."""
        counts_file = self._root / "calls.json"
        ended = ForkedRun(self._reference, output, counts_to=counts_file).wait()
        if ended.code != ENDED_GOOD:
            raise LossError(f"the undisturbed run of {output} ended with {ended.code}: {ended.said}")
        self.seconds[output] = ended.seconds
        self._calls[output] = json.loads(counts_file.read_text())

    def _begin(self, folder: Path) -> None:
        """The folder with a job's input and model in it, and nothing else."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._reference, folder, ignore=shutil.ignore_patterns("out*"))
        self.counts["jobs"] += 1

    def job(self, output: str, kills: int, faults: int) -> None:
        """One job from beginning to end, disturbed up to so many times on its way."""
        folder = self._root / "job"
        self._begin(folder)
        done = False
        while not done and (kills > 0 or faults > 0):
            if self._random.random() * (kills + faults) < kills:
                killed, done = self._kill_once(folder, output)
                kills -= killed
            else:
                done = self._fail_once(folder, output)
                faults -= 1
            if not done and self._random.random() < 0.3:
                self._damage(folder / f".{output}.pagecli-journal" / "journal")
        if not done:
            self._expect_good(ForkedRun(folder, output).wait())
        self._check(folder, output)

    def _kill_once(self, folder: Path, output: str) -> tuple[bool, bool]:
        """(whether it was killed, whether it was done before that)."""
        if self._random.random() < 0.5:
            run = ForkedRun(folder, output)
            killed = run.kill_after(self._random.random() * 0.7 * self.seconds[output])  # a resumed run is shorter
            kind = "kills by the clock"
        else:
            name = self._random.choice(sorted(self._calls[output]))
            number = 1 + int(self._random.random() ** 2 * self._calls[output][name])  # and makes fewer calls
            run = ForkedRun(folder, output, Fault(name, number, self._random.choice(KILL_ACTIONS)))
            killed, kind = True, f"kills in os.{name}"
        ended = run.wait()
        if killed and ended.code == -9:
            self.counts["kills"] += 1
            self.counts[kind] += 1
            return True, self._is_over(folder, output)
        self._expect_good(ended)
        return False, True

    def _is_over(self, folder: Path, output: str) -> bool:
        """Killed in its very last acts, with the output in place and every trace of the job gone."""
        return (folder / output).exists() and not (folder / f".{output}.pagecli-journal").exists()

    def _fail_once(self, folder: Path, output: str) -> bool:
        """Whether the job is done all the same."""
        kind = self._random.choice(("ENOSPC", "EIO", "short write", "file size"))
        if kind == "file size":
            size = (self._reference / output).stat().st_size
            fault = Fault("", self._random.randint(1, size), kind)
        else:
            name = "pwrite" if kind == "short write" else self._random.choice(FAILING)
            fault = Fault(name, self._random.randint(1, max(1, self._calls[output].get(name, 0))), kind)
        ended = ForkedRun(folder, output, fault).wait()
        self.counts["faults"] += 1
        self.counts[f"faults {kind}"] += 1
        if ended.code == ENDED_GOOD or self._was_tidying_up(ended):
            return True
        if ended.code not in FAILED_WELL or "error: " not in ended.said or "Traceback" in ended.said:
            raise LossError(f"{fault} ended with {ended.code}: {ended.said}")
        return False

    def _damage(self, rows: Path) -> None:
        """The journal is hurt where it lies."""
        if not rows.exists() or not rows.stat().st_size:
            return
        size = rows.stat().st_size
        kind = self._random.choice(("torn tails", "flipped bits", "garbage tails", "lost pieces"))
        with rows.open("r+b") as file:
            if kind == "torn tails":
                file.truncate(self._random.randrange(size))
            elif kind == "garbage tails":
                file.seek(0, os.SEEK_END)
                file.write(self._random.randbytes(self._random.randint(1, 5000)))
            else:
                for _ in range(self._random.randint(1, 8)):
                    place = self._random.randrange(size)
                    file.seek(place)
                    byte = file.read(1)[0]
                    file.seek(place)
                    piece = bytes(self._random.randint(1, 300))
                    file.write(piece if kind == "lost pieces" else bytes([byte ^ 1 << self._random.randrange(8)]))
        self.counts["damaged journals"] += 1
        self.counts[kind] += 1

    def _expect_good(self, ended: tortured_job.Ended) -> None:
        if ended.code != ENDED_GOOD and not self._was_tidying_up(ended):
            raise LossError(f"a run that nobody disturbed ended with {ended.code}: {ended.said}")

    def _was_tidying_up(self, ended: tortured_job.Ended) -> bool:
        """A kill before hit the last acts of a job that was complete: the output is not replaced; _check looks at it."""
        was = ended.code == REFUSED and self.counts["kills"] > 0 and "already exists" in ended.said
        self.counts["outputs found complete after a kill while tidying up"] += was
        return was

    def _check(self, folder: Path, output: str) -> None:
        if sorted(os.listdir(folder)) != sorted([INPUT, "model", output]):
            raise LossError(f"left behind: {sorted(os.listdir(folder))}")
        if not tortured_job.same_content(folder / output, self._reference / output):
            kept = Path(tempfile.mkdtemp(prefix="torture-loss-"))
            shutil.copytree(folder, kept / "job")
            shutil.copytree(self._reference, kept / "reference")
            raise LossError(f"{output} differs from the undisturbed one; both are in {kept}")
        self.counts["outputs identical to the undisturbed run"] += 1

    def kill_processes(self, count: int) -> None:
        """Runs with all their imports, killed while they start and work; after a job that is done comes another."""
        folder, output = self._root / "processes", FORMATS[0]
        started = time.monotonic()
        self._begin(folder)
        tortured_job.start_process(folder, output).communicate()
        undisturbed = time.monotonic() - started
        while count > 0:
            self._check(folder, output)
            self._begin(folder)
            while count > 0 and self._kill_process(folder, output, self._random.random() * undisturbed):
                count -= 1
            if not self._is_over(folder, output):
                self._expect_good(ForkedRun(folder, output).wait())
        self._check(folder, output)
        self.seconds["processes"] = time.monotonic() - started

    def _kill_process(self, folder: Path, output: str, after_seconds: float) -> bool:
        """False if it ended by itself before."""
        process = tortured_job.start_process(folder, output)
        time.sleep(after_seconds)
        process.kill()
        process.communicate()
        if process.returncode == -9:
            self.counts["kills"] += 1
            self.counts["kills of processes starting up"] += 1
        return process.returncode == -9


def run(kills: int, rows: int, processes: int, seed: int, folder: Path) -> Counter[str]:
    """The whole campaign. Raises LossError at the first loss."""
    tortured_job.import_what_jobs_need()
    campaign = Campaign(folder, rows, seed)
    number = 0
    while campaign.counts["kills"] < kills - processes:
        campaign.job(FORMATS[number % len(FORMATS)], min(8, kills - processes - campaign.counts["kills"]), faults=2)
        number += 1
        if number % 10 == 0:
            print(f"{campaign.counts['kills']} kills in {number} jobs, no loss", flush=True)
    if processes:
        campaign.kill_processes(processes)
    campaign.counts["losses"] = 0  # the first one would have ended the campaign
    return campaign.counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument(
        "--processes", type=int, default=None, help="of the kills, how many of whole processes (default: a tenth)"
    )
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--save", action="store_true", help="keep the counts under tests/torture/results/")
    args = parser.parse_args()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    started = time.monotonic()
    processes = args.kills // 10 if args.processes is None else args.processes
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        counts = run(args.kills, args.rows, processes, seed, Path(name))
    body = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python tests/torture/kill.py "
        f"--kills {args.kills} --rows {args.rows} --processes {processes} --seed {seed}",
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        "seconds": round(time.monotonic() - started, 1),
        "counts": dict(sorted(counts.items())),
    }
    print(json.dumps(body, indent=2))
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"kill-{datetime.now(UTC):%Y-%m-%d}.json"
        path.write_text(json.dumps(body, indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
