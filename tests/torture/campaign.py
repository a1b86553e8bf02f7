"""Jobs that are tortured until they are complete, and what must hold of them meanwhile and in the end.

An undisturbed run in the same surroundings says what must come out. A job whose surroundings changed may be refused, and may be
another job where nothing was finished; its output is that of one undisturbed run as a whole, never rows of two.
"""

import json
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cases
import tortured_run
from cases import Case
from changes import CHANGES, Change
from injected_faults import SIGNAL_PLACES, Fault
from tortured_run import USUAL, Ended, ForkedRun, Surroundings

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FAILING = ("read", "write", "sync", "link", "rename", "mkdir", "open", "truncate")
ROWS = 5  # the input has bad rows
GOOD = (0, ROWS)
REFUSED = 2
FAILED_WELL = (3, 4)
AS_IT_IS = "as it is"


class LossError(AssertionError):
    """What must never happen."""


@dataclass(slots=True)
class Job:
    """A job on its way. `worlds` are the surroundings that it may have been begun in."""

    case: Case
    folder: Path
    worlds: set[str] = field(default_factory=set)
    was_killed: bool = False
    was_damaged: bool = False
    may_be_unknown: bool = False  # it may be refused from now on, as it may have been begun in other surroundings
    begins_anew: bool = False  # its next run has --restart, as the last one was told
    done: bool = False
    last_run: str = ""  # for messages
    before: bytes | None = None  # the output that was there already

    @property
    def output(self) -> Path:
        return self.folder / self.case.output

    def journal_paths(self) -> list[Path]:
        """Whatever the job keeps beside its output."""
        return sorted(self.folder.glob(f".{self.case.output}.pagecli*"))

    def has_output(self) -> bool:
        return self.output.exists() and self.output.read_bytes() != self.before


class Campaign:
    """Tortures one job after the other in `root`. Raises LossError."""

    def __init__(self, root: Path, num_rows: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = root
        self.counts: Counter[str] = Counter()
        self._num_rows = num_rows
        self._undisturbed: dict[tuple[str, str], Path] = {}  # (case, world) -> output
        self.seconds: dict[str, float] = {}
        self._calls: dict[str, dict[str, int]] = {}
        self.models = root / "models"
        self.models.mkdir()
        if not tortured_run.in_fork(lambda: cases.build_models(self.models) is None):
            raise RuntimeError("the models cannot be built")

    def torture(self, case: Case, kills: int, faults: int, changes: int) -> None:
        """One job from beginning to end, disturbed up to so many times on its way."""
        job = self.begin(case)
        changes = changes if case.changes else 0
        while not job.done and kills + faults + changes > 0:
            deed = self.random.choices(("kill", "fail", "change"), (kills, faults, changes))[0]
            if deed == "kill":
                kills -= self._kill_once(job)
            elif deed == "fail":
                self._fail_once(job)
                faults -= 1
            else:
                self._change_once(job)
                changes -= 1
            if not job.done:
                self._check_unfinished(job)
                if self.random.random() < 0.3:
                    self._damage(job)
        self.finish(job)

    def begin(self, case: Case) -> Job:
        if case.name not in self._calls:
            self._measure(case)
        folder = self.root / "job"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._as_it_was(case), folder, symlinks=True)
        self.counts["jobs"] += 1
        self.counts[f"jobs: {case.name}"] += 1
        output = folder / case.output
        return Job(case, folder, before=output.read_bytes() if output.exists() else None)

    def _as_it_was(self, case: Case) -> Path:
        return self.root / "as it was" / case.name.replace(" ", "-")

    def _measure(self, case: Case) -> None:
        """The undisturbed run: how long it takes, which calls it makes."""
        self._as_it_was(case).parent.mkdir(exist_ok=True)
        folder = self._as_it_was(case)
        cases.write_case(case, folder, self.models, self._num_rows)
        if case.write_earlier is not None:
            ended = ForkedRun(folder, case.earlier_arguments()).wait()
            if ended.code != ROWS:
                raise LossError(f"the earlier run of {case.name} ended with {ended.code}: {ended.said}")
            (folder / cases.EARLIER_INPUT).unlink()
        counts_file = self.root / "calls.json"
        self._undisturbed_output(case, next(iter(cases.DAYS)) if case.has_days else AS_IT_IS, counts_file)
        self._calls[case.name] = read_calls(counts_file)

    def _undisturbed_output(self, case: Case, world: str, counts_to: Path | None = None) -> Path:
        """What comes out where nothing disturbs, in a world: a day, the name of a change, AS_IT_IS."""
        key = (case.name, world)
        if key in self._undisturbed:
            return self._undisturbed[key]
        folder = self.root / "undisturbed" / f"{case.name} {world}".replace(" ", "-")
        shutil.copytree(self._as_it_was(case), folder, symlinks=True)
        change = CHANGES.get(world, Change())
        change.make(folder)
        more = ["--template-time", world] if world in cases.DAYS else []
        around = Surroundings(environment=change.environment)
        ended = ForkedRun(folder, [*case.arguments(), *more], counts_to=counts_to, around=around).wait()
        if ended.code not in GOOD:
            raise LossError(f"the undisturbed run of {case.name} ({world}) ended with {ended.code}: {ended.said}")
        self.seconds.setdefault(case.name, ended.seconds)
        self._undisturbed[key] = folder / case.output
        return folder / case.output

    def _start(
        self, job: Job, fault: Fault | None = None, change: Change | None = None, restart: bool = False, closes: bool = True
    ) -> ForkedRun:
        job.last_run = f"{fault}, {change}"
        around = USUAL if change is None else Surroundings(environment=change.environment)
        if job.case.has_days:
            day = self.random.choice(sorted(cases.DAYS))
            now = f"{day}T{self.random.choice(cases.DAYS[day])}"
            job.worlds |= {day, *(later for later in cases.DAYS if later > day)}
            around = Surroundings(now=now)
        elif change is None:
            job.worlds.add(AS_IT_IS)
        if job.case.closes and closes:
            closed = tuple(fd for fd in (0, 1, 2) if self.random.random() < 0.5)
            self.counts["runs without a standard descriptor"] += bool(closed)
            around = Surroundings(closed=closed)
        if restart or job.begins_anew or (job.case.restarts and self.random.random() < 0.2):
            job.begins_anew = False
            self.counts["runs with --restart"] += 1
            return ForkedRun(job.folder, [*job.case.arguments(), "--restart"], fault, around=around)
        return ForkedRun(job.folder, job.case.arguments(), fault, around=around)

    def _random_seconds(self, job: Job) -> float:
        return self.random.random() * 0.7 * self.seconds[job.case.name]  # a resumed run is shorter

    def _random_call(self, job: Job, names: list[str]) -> tuple[str, int]:
        """A kind of call, and which of them."""
        calls = self._calls[job.case.name]
        name = self.random.choice([name for name in names if calls[name]])
        return name, 1 + int(self.random.random() ** 2 * calls[name])  # a resumed run makes fewer

    def _random_signal(self) -> int:
        return signal.SIGKILL if self.random.random() < 0.75 else self.random.choice(SIGNALS)

    def _kill_once(self, job: Job, change: Change | None = None) -> bool:
        """Whether the signal was in time."""
        signum = self._random_signal()
        if self.random.random() < 0.5:
            run, place = self._start(job, change=change), "by the clock"
            run.signal_after(self._random_seconds(job), signum)
        else:
            name, number = self._random_call(job, sorted(self._calls[job.case.name]))
            fault = Fault(name, number, self.random.choice(SIGNAL_PLACES), signum)  # type: ignore[arg-type]
            run, place = self._start(job, fault, change), f"in {name}"
        ended = run.wait()
        if ended.code not in (-signum, 128 + signum):
            self.judge(job, ended, is_changed=change is not None)
            return False
        self.note_killed(job)
        self.counts["kills" if signum == signal.SIGKILL else "other signals"] += 1
        if signum == signal.SIGKILL:
            self.counts[f"kills {place}"] += 1
        return True

    def note_killed(self, job: Job) -> None:
        job.was_killed = True
        job.done = job.has_output() and not job.journal_paths()  # killed in its very last acts

    def _fail_once(self, job: Job) -> None:
        kind = self.random.choice(("ENOSPC", "EIO", "short write", "file size"))
        if kind == "file size":
            fault = Fault("", self.random.randint(1, max(map(os.path.getsize, self._undisturbed.values()))), "file size")
        elif kind == "short write":
            fault = Fault(*self._random_call(job, ["write"]), "short write")
        else:
            fault = Fault(*self._random_call(job, list(FAILING)), kind)  # type: ignore[arg-type]
        ended = self._start(job, fault).wait()
        self.counts["faults"] += 1
        self.counts[f"faults {kind}"] += 1
        if ended.code in FAILED_WELL:
            self._expect_well_said(job, ended, str(fault))
        else:
            self.judge(job, ended, str(fault))

    def _change_once(self, job: Job) -> None:
        """The surroundings change, before a run or in the middle of it, and are put back after it."""
        name = self.random.choice(job.case.changes)
        change = CHANGES[name]
        if not change.allows_no_job:
            job.worlds.add(name)
        self.counts["changes"] += 1
        self.counts[f"changes: {name}"] += 1
        before = self._num_finished(job)
        job.may_be_unknown |= change.leaves_traces
        if change.environment or self.random.random() < 0.5:
            change.make(job.folder)
            if self.random.random() < 0.3:
                self._kill_once(job, change)
                job.may_be_unknown = True  # begun as another job, if nothing was finished before
            else:
                self.judge(job, self._start(job, change=change).wait(), is_changed=True)
        else:
            run = self._start(job)
            run.at(self._random_seconds(job), lambda: change.make(job.folder)) or change.make(job.folder)
            self.judge(job, run.wait(), is_changed=True)
        change.restore(job.folder, self._as_it_was(job.case))
        if not job.done and not job.was_damaged and self._num_finished(job) < before:
            raise LossError(f"{before} rows were finished before {name}, {self._num_finished(job)} after it")

    def judge(self, job: Job, ended: Ended, what: str = "undisturbed", is_changed: bool = False) -> None:
        """Of a run that no signal ended: done, or refused where that is right. Raises LossError."""
        if job.case.closes and ended.code not in GOOD:
            ended = self._start(job, closes=False).wait()  # to hear why
        if ended.code in GOOD:
            job.done = True
        elif ended.code == REFUSED and job.was_killed and "already exists" in ended.said and job.has_output():
            self.counts["outputs found complete after a kill while tidying up"] += 1
            job.done = True
        elif not (is_changed or job.was_damaged or job.may_be_unknown) or ended.code not in (REFUSED, *FAILED_WELL):
            raise LossError(f"{job.case.name}: a run ({what}) ended with {ended.code}: {ended.said}")
        else:
            self._expect_well_said(job, ended, what)
            self.counts["runs refused"] += 1
            job.begins_anew = not is_changed and ended.code == REFUSED and "--restart" in ended.said

    def _expect_well_said(self, job: Job, ended: Ended, what: str) -> None:
        if not ended.is_well_said and not (job.case.closes and not ended.said):
            raise LossError(f"{job.case.name}: a run ({what}) ended with {ended.code}: {ended.said}")

    def finish(self, job: Job) -> None:
        """Runs a job to its end, if it is not there, and checks what came out."""
        if not job.done:
            self._run_to_the_end(job)
        self._check(job)

    def _run_to_the_end(self, job: Job) -> None:
        """The surroundings are as they were; a job that is damaged or cannot be known again begins anew."""
        ended = self._start(job, closes=False).wait()
        if ended.code == REFUSED and "--restart" in ended.said and (job.was_damaged or job.may_be_unknown):
            ended = self._start(job, restart=True, closes=False).wait()
        job.was_damaged = job.may_be_unknown = False
        self.judge(job, ended)

    def _damage(self, job: Job) -> None:
        """Any file of the journal is hurt where it lies."""
        files = [file for path in job.journal_paths() for file in (path.rglob("*") if path.is_dir() else [path])]
        files = [
            file for file in files if file.is_file() and file.stat().st_size and file.stat().st_nlink == 1
        ]  # not the output
        if not files:
            return
        file = self.random.choices(files, [path.stat().st_size ** 0.5 for path in files])[0]
        kind = self.random.choice(("torn tails", "flipped bits", "garbage tails", "lost pieces", "lost files"))
        hurt(file, kind, self.random)
        job.was_damaged = True
        self.counts["damaged journals"] += 1
        self.counts[kind] += 1

    def _num_finished(self, job: Job) -> int:
        """Input rows that are safe, as `status` says; 0 if there is no job."""
        fd, name = tempfile.mkstemp(dir=self.root)
        os.close(fd)
        code = 0
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(os.open(name, os.O_WRONLY), 1)
                from pagecli.cli.app import main

                main(["status", str(job.output), "--json"])
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text = Path(name).read_text()
        os.unlink(name)
        found: dict[str, Any] = json.loads(text) if text else {}
        return int(found.get("num_rows") or 0) if code in (11, 12) else 0

    def _check_unfinished(self, job: Job) -> None:
        """Before the end: nothing but the job's own is there, and an output only if it is complete."""
        names = {path.name for path in job.folder.iterdir()} - set(os.listdir(self._as_it_was(job.case)))
        names -= {path.name for path in job.journal_paths()}
        if names - {job.case.output}:
            raise LossError(f"{job.case.name}: left behind: {sorted(names)}")
        if job.has_output():
            self._check_content(job)

    def _check(self, job: Job) -> None:
        expected = sorted({*os.listdir(self._as_it_was(job.case)), job.case.output})
        if sorted(os.listdir(job.folder)) != expected:
            left = {path.name: sorted(os.listdir(path)) for path in job.journal_paths() if path.is_dir()}
            what = f"{sorted(os.listdir(job.folder))}, not {expected} ({left}); the last run: {job.last_run}"
            raise LossError(f"{job.case.name}: there is {what}")
        self._check_content(job)
        self.counts["outputs identical to an undisturbed run"] += 1

    def _check_content(self, job: Job) -> None:
        undisturbed = [self._undisturbed_output(job.case, world) for world in sorted(job.worlds)]
        if not any(tortured_run.same_content(job.output, path) for path in undisturbed):
            kept = Path(tempfile.mkdtemp(prefix="torture-loss-"))
            shutil.copytree(job.folder, kept / "job", symlinks=True)
            for path in undisturbed:
                shutil.copytree(path.parent, kept / path.parent.name, symlinks=True)
            raise LossError(f"{job.case.name}: {job.case.output} is that of no undisturbed run ({job.worlds}); see {kept}")


def read_calls(counts_file: Path) -> dict[str, int]:
    """What a run with `counts_to` wrote."""
    calls: dict[str, int] = json.loads(counts_file.read_text())
    return calls


def hurt(file: Path, kind: str, random: random.Random) -> None:
    """Damages a file that is not empty."""
    size = file.stat().st_size
    if kind == "lost files":
        file.unlink()
        return
    with file.open("r+b") as opened:
        if kind == "torn tails":
            opened.truncate(random.randrange(size))
        elif kind == "garbage tails":
            opened.seek(0, os.SEEK_END)
            opened.write(random.randbytes(random.randint(1, 5000)))
        else:
            for _ in range(random.randint(1, 8)):
                offset = random.randrange(size)
                opened.seek(offset)
                byte = opened.read(1)[0]
                opened.seek(offset)
                lost = bytes(random.randint(1, 300))
                opened.write(lost if kind == "lost pieces" else bytes([byte ^ 1 << random.randrange(8)]))
