"""`merge` under signals: at any moment the merged file is absent, the one that was there before, or complete."""

import os
import shutil
import signal
import time
from pathlib import Path

import cases
import tortured_run
from campaign import FAILED_WELL, FAILING, GOOD, SIGNALS, Campaign, LossError, read_calls
from cases import Case
from injected_faults import SIGNAL_PLACES, Fault
from tortured_run import ForkedRun

NUM_PARTS = 3
SUFFIXES = (".jsonl", ".parquet")
LONG_AGO_SECONDS = 3600.0  # what a killed process left is taken for what another host writes, until it is old


class MergeCampaign:
    """The parts of one job, and what they are merged to."""

    def __init__(self, campaign: Campaign, num_rows: int) -> None:
        self._campaign = campaign
        self._random = campaign.random
        self._counts = campaign.counts
        self._home = campaign.root / "merge"
        case = Case("merge", cases.write_prompts, flags=cases.RANDOM_WEIGHTS)
        cases.write_case(case, self._home, campaign.models, num_rows)
        names = [f"part-{number}" for number in range(1, NUM_PARTS + 1)]
        for suffix in SUFFIXES:
            for number, name in enumerate(["whole", *names]):
                shard = ["--shard", f"{number}/{NUM_PARTS}"] if number else []
                self._run(["generate", cases.INPUT, name + suffix, *case.arguments()[3:], *shard])
        self._arguments = {suffix: ["merge", *(name + suffix for name in names), "all" + suffix] for suffix in SUFFIXES}
        counts_to = campaign.root / "calls.json"
        begun = time.monotonic()
        self._run(self._arguments[SUFFIXES[0]], counts_to)
        self._seconds = time.monotonic() - begun
        self._calls = read_calls(counts_to)
        os.unlink(self._home / f"all{SUFFIXES[0]}")

    def _run(self, arguments: list[str], counts_to: Path | None = None) -> None:
        ended = ForkedRun(self._home, arguments, counts_to=counts_to).wait()
        if ended.code not in GOOD:
            raise LossError(f"{arguments} ended with {ended.code}: {ended.said}")

    def torture(self, kills: int) -> None:
        """One merge, interrupted, failed and done again until the whole is there."""
        suffix = self._random.choice(SUFFIXES)
        overwrites = self._random.random() < 0.5
        folder = self._campaign.root / "job"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._home, folder, symlinks=True)
        self._counts["merges"] += 1
        output = folder / f"all{suffix}"
        if overwrites:
            output.write_bytes(cases.OLD_OUTPUT)
        arguments = [*self._arguments[suffix], *(["--overwrite"] if overwrites else [])]
        while kills > 0 and not self._is_merged(output):
            kills -= self._disturb(folder, arguments)
            names = set(os.listdir(folder)) - set(os.listdir(self._home)) - {output.name}
            if any(not name.endswith(".tmp") for name in names):
                raise LossError(f"merge left {sorted(names)}")
            for name in names:
                os.utime(folder / name, (time.time() - LONG_AGO_SECONDS,) * 2)
        if not self._is_merged(output):
            ended = ForkedRun(folder, arguments).wait()
            if ended.code != 0:
                raise LossError(f"merge ended with {ended.code}: {ended.said}")
            left = set(os.listdir(folder)) - set(os.listdir(self._home)) - {output.name}
            if left:
                raise LossError(f"merge left {sorted(left)}")
        if not self._is_merged(output):
            raise LossError(f"{output} is not what the parts are")
        self._counts["merges identical to the whole"] += 1

    def _disturb(self, folder: Path, arguments: list[str]) -> bool:
        """Whether it was killed."""
        names = set(os.listdir(folder))
        signum = signal.SIGKILL if self._random.random() < 0.5 else self._random.choice(SIGNALS)
        name = self._random.choice([name for name, number in self._calls.items() if number])
        number = self._random.randint(1, self._calls[name])
        if self._random.random() < 0.3:
            run = ForkedRun(folder, arguments)
            run.signal_after(self._random.random() * self._seconds, signum)
        elif self._random.random() < 0.3 and name in FAILING:
            run = ForkedRun(folder, arguments, Fault(name, number, self._random.choice(("ENOSPC", "EIO"))))
        else:
            run = ForkedRun(folder, arguments, Fault(name, number, self._random.choice(SIGNAL_PLACES), signum))
        ended = run.wait()
        if ended.code == -signal.SIGKILL:
            self._counts["kills"] += 1
            self._counts["kills of merges"] += 1
            return True
        if set(os.listdir(folder)) - names - {arguments[-1], arguments[-2]}:
            raise LossError(f"merge left {sorted(set(os.listdir(folder)) - names)} ({ended.code})")
        if ended.code in FAILED_WELL and not ended.is_well_said:
            raise LossError(f"merge ended with {ended.code}: {ended.said}")
        if ended.code == 128 + signum:
            self._counts["other signals"] += 1
            self._counts["other signals to merges"] += 1
        elif ended.code not in (0, -signum, *FAILED_WELL):
            raise LossError(f"merge ended with {ended.code}: {ended.said}")
        return False

    def _is_merged(self, path: Path) -> bool:
        """Raises LossError if there is something else than what was there before, or the whole."""
        if not path.exists() or (path.stat().st_size == len(cases.OLD_OUTPUT) and path.read_bytes() == cases.OLD_OUTPUT):
            return False
        if not tortured_run.same_content(path, self._home / f"whole{path.suffix}"):
            raise LossError(f"{path} is neither absent nor the whole")
        return True
