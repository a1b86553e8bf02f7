"""`--shard auto/N` by many processes, killed at random and started again: the merged output must be that of one process.

    python tests/torture/kill_parts.py --parts 64 --processes 8 --kills 20 --save

As many processes as asked for run the same command side by side. At random moments one of them is killed with SIGKILL, and a
new one takes its place. Every process that ends by itself must say that the job is complete; the output must equal, byte for
byte, that of a run without parts, with nothing left of parts and journals. Counts go to tests/torture/results/ with --save.
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
from tortured_run import ForkedRun

GOOD = (0, 5)  # with error rows, which the input has
LIMIT_SECONDS = 600.0


class PartsCampaign:
    """One job in `folder`, by `processes` processes at a time."""

    def __init__(self, folder: Path, rows: int, parts: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._home = folder / "job"
        case = cases.Case("parts", cases.write_prompts, flags=cases.RANDOM_WEIGHTS)
        cases.write_case(case, self._home, folder, rows)
        self._arguments = [*case.arguments(), "--shard", f"auto/{parts}"]
        begun = time.monotonic()
        whole = ForkedRun(self._home, ["generate", cases.INPUT, "whole.jsonl", *case.arguments()[3:]]).wait()
        assert whole.code in GOOD, whole.said
        self._seconds, self._files = time.monotonic() - begun, set(os.listdir(self._home))

    def run(self, processes: int, kills: int) -> None:
        """Until the job is complete. AssertionError at the first fault."""
        running = [self._start() for _ in range(processes)]
        deadline = time.monotonic() + LIMIT_SECONDS
        while running:
            assert time.monotonic() < deadline, "the job hangs"
            time.sleep(self._random.random() * 2 * self._seconds / max(1, kills))
            running = self._without_ended(running)
            if running and self.counts["kills"] < kills:
                running.append(self._kill(running.pop(self._random.randrange(len(running)))))
        self._check()

    def _start(self) -> ForkedRun:
        self.counts["processes"] += 1
        return ForkedRun(self._home, self._arguments)

    def _kill(self, victim: ForkedRun) -> ForkedRun:
        os.kill(victim.pid, signal.SIGKILL)
        ended = victim.wait()
        if ended.code == -signal.SIGKILL:
            self.counts["kills"] += 1
        else:
            assert ended.code in GOOD, ended.said
        return self._start()

    def _without_ended(self, running: list[ForkedRun]) -> list[ForkedRun]:
        left = []
        for process in running:
            if process.has_ended():
                ended = process.wait()
                assert ended.code in GOOD, f"ended with {ended.code}: {ended.said}"
                self.counts["processes that saw the job complete"] += 1
            else:
                left.append(process)
        return left

    def _check(self) -> None:
        assert (self._home / "out.jsonl").read_bytes() == (self._home / "whole.jsonl").read_bytes(), "not the same output"
        left = set(os.listdir(self._home)) - self._files - {"out.jsonl"}
        assert left == {".out.jsonl.pagecli-parts"}, left
        assert sorted(os.listdir(self._home / left.pop())) == ["job.json", "merged.json"]
        late = ForkedRun(self._home, self._arguments).wait()
        assert late.code in GOOD, late.said
        self.counts["outputs identical to one process's"] += 1


def main() -> None:
    parser = kept_counts.parser(__doc__)
    parser.add_argument("--parts", type=int, default=64)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()

    def campaign(folder: Path, seed: int) -> Counter[str]:
        parts = PartsCampaign(folder, args.rows, args.parts, seed)
        parts.run(args.processes, args.kills)
        return parts.counts

    flags = " ".join(f"--{name} {getattr(args, name)}" for name in ("rows", "parts", "processes", "kills"))
    kept_counts.run(args, "parts", f"python tests/torture/kill_parts.py {flags}", campaign)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
