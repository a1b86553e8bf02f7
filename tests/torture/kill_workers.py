"""A job's workers, or the ranks of its model, killed and stopped at random: the output must be that of one process.

    python tests/torture/kill_workers.py --rows 2000 --workers 3 --harms 200 --save
    python tests/torture/kill_workers.py --rows 500 --ranks 2 --harms 100 --save
    python tests/torture/kill_workers.py --rows 2000 --workers 2 --ray local --harms 60 --save

Jobs run one after the other until so many of their processes have been killed (SIGKILL) or stopped (SIGSTOP); now and then the
job's own process is killed. A job that ends for want of them, or was killed, is run again. After each, the output must equal,
byte for byte, that of a run in one process (of as many segments as there are ranks), no row lost or doubled, and no process
may be left. Counts go to tests/torture/results/ with --save.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import cases
import kept_counts
import psutil
from tortured_run import ForkedRun

GOOD, LOST = (0, 5), 4  # with error rows, which the input has; processes lost again and again
SAYS_LOST = ("all workers of the pool are lost", "tensor parallelism: rank")
ACTOR = "ray::RemoteWorker.run"  # as Ray calls its process
MODULES = ("pagecli.jobs.workers.worker", "pagecli.distributed.rank")
TIMEOUT_SECONDS = 4  # a machine that others share may take two to let a process run
ROWS_BETWEEN_HARMS = 20
LIMIT_SECONDS = 300.0


class WorkersCampaign:
    """One job, run again and again in `folder`."""

    def __init__(self, folder: Path, rows: int, flags: list[str], ranks: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._home = folder / "job"
        case = cases.Case("workers", cases.write_prompts, flags=cases.RANDOM_WEIGHTS)
        cases.write_case(case, self._home, folder, rows)
        arguments = case.arguments()
        arguments[arguments.index("--max-tokens") + 1] = "60"
        self._arguments = [*arguments, *flags, "--worker-timeout", str(TIMEOUT_SECONDS)]
        segments = ["--sum-segments", str(ranks)] if ranks else []
        whole = ForkedRun(self._home, ["generate", cases.INPUT, "whole.jsonl", *arguments[3:], *segments]).wait()
        assert whole.code in GOOD, whole.said
        self._files = set(os.listdir(self._home))

    def run(self, harms: int) -> None:
        """AssertionError at the first fault."""
        while (left := harms - self._num_harms()) > 0:
            self._run_job(left)
            print(dict(self.counts), flush=True)

    def _num_harms(self) -> int:
        return self.counts["processes killed"] + self.counts["processes stopped"]

    def _run_job(self, harms: int) -> None:
        self.counts["jobs"] += 1
        last = self._num_harms() + harms
        while True:
            job = ForkedRun(self._home, self._arguments)
            seen = self._harm(job, last)
            ended = job.wait(LIMIT_SECONDS)
            assert not psutil.wait_procs(seen, timeout=10)[1], "a process is left"
            if ended.code in GOOD:
                break
            was_killed = ended.code == -signal.SIGKILL
            assert was_killed or (ended.code == LOST and any(text in ended.said for text in SAYS_LOST)), ended.said
            self.counts["jobs killed" if was_killed else "jobs ended for want of processes"] += 1
        lines = [(self._home / name).read_bytes().splitlines() for name in ("out.jsonl", "whole.jsonl")]
        different = [pair for pair in zip(*lines, strict=False) if pair[0] != pair[1]]
        assert lines[0] == lines[1], f"not the same output: {len(lines[0])} and {len(lines[1])} rows, {different[:3]}"
        assert set(os.listdir(self._home)) == self._files | {"out.jsonl"}, os.listdir(self._home)
        os.unlink(self._home / "out.jsonl")
        self.counts["outputs identical to one process's"] += 1

    def _harm(self, job: ForkedRun, last: int) -> list[psutil.Process]:
        """Until the job has ended, whenever some rows more are finished; the workers that were seen."""
        seen: dict[int, psutil.Process] = {}
        journal = self._home / ".out.jsonl.pagecli-journal/journal"
        rows = _num_rows(journal)
        while not job.has_ended():
            time.sleep(self._random.random() * 0.1)
            workers = _workers_of(job.pid)
            seen |= {worker.pid: worker for worker in workers}
            if not workers or self._num_harms() >= last or (now := _num_rows(journal)) < rows + ROWS_BETWEEN_HARMS:
                continue
            rows = now
            if self._random.random() < 0.05:
                os.kill(job.pid, signal.SIGKILL)
                break
            stops = self._random.random() < 0.3
            try:
                self._random.choice(workers).send_signal(signal.SIGSTOP if stops else signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
            self.counts["processes stopped" if stops else "processes killed"] += 1
        return list(seen.values())


def _num_rows(journal: Path) -> int:
    """Lines of finished rows; those that say which job it is are others."""
    try:
        return sum(b" job {" not in line[:20] for line in journal.read_bytes().splitlines())
    except OSError:
        return 0


def _workers_of(pid: int) -> list[psutil.Process]:
    """Those that have come so far that they are told when their parent ends."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        tied = [child for child in children if set(MODULES) & set(child.cmdline()) and _is_tied(child.pid)]
        return tied + [child for child in children if child.cmdline()[:1] == [ACTOR]]
    except (psutil.Error, OSError):
        return []


def _is_tied(pid: int) -> bool:
    ignored = Path(f"/proc/{pid}/status").read_text().split("SigIgn:")[1].split()[0]
    return bool(int(ignored, 16) >> (signal.SIGTERM - 1) & 1)


def main() -> None:
    parser = kept_counts.parser(__doc__)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=0, help="in place of workers: the ranks of one model")
    parser.add_argument("--ray", metavar="ADDRESS", help="the workers are those of a Ray cluster, as local")
    parser.add_argument("--harms", type=int, default=200)
    args = parser.parse_args()
    flags = ["--tensor-parallel-size", str(args.ranks)] if args.ranks else ["--workers", str(args.workers)]
    flags += ["--ray", args.ray] if args.ray else []

    def campaign(folder: Path, seed: int) -> Counter[str]:
        workers = WorkersCampaign(folder, args.rows, flags, args.ranks, seed)
        workers.run(args.harms)
        return workers.counts

    kind = f"--ranks {args.ranks}" if args.ranks else " ".join(flags)
    command = f"python tests/torture/kill_workers.py --rows {args.rows} {kind} --harms {args.harms}"
    kept_counts.run(args, "ranks" if args.ranks else "ray" if args.ray else "workers", command, campaign)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
