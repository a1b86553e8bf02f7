"""One run of a command: in a forked process or one of its own, with a fault in it or without, and how it ended.

The process that forks has imported torch and computed nothing, so that a run starts in milliseconds and has its own threads.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import injected_faults
from injected_faults import Fault


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its exit code, or minus the signal that killed it, and what it said on stderr."""

    code: int
    said: str
    seconds: float

    @property
    def is_well_said(self) -> bool:
        """An error of one line, and what to do."""
        return "error: " in self.said and "Traceback" not in self.said and "not caught" not in self.said


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run finds beside its files. `now`: the time (ISO) as it begins; `closed`: descriptors that are not open."""

    now: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    closed: tuple[int, ...] = ()


USUAL = Surroundings()


def import_what_jobs_need() -> None:
    """Everything slow, so that forked processes have it; but for pyarrow, which knows of forks, no thread is started by it."""
    import pyarrow.parquet

    num_threads = len(os.listdir("/proc/self/task"))
    import torch
    import transformers  # noqa: F401

    import pagecli.cli.app
    import pagecli.cli.generate.run
    import pagecli.engine.engine
    import pagecli.jobs.shards.merge
    import pagecli.model.tokenizer.tokenizer  # noqa: F401

    assert pyarrow is not None
    assert torch.get_num_threads() >= 1
    assert len(os.listdir("/proc/self/task")) == num_threads, "processes forked from here would lack threads"


class ForkedRun:
    """A run in a forked process."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        fault: Fault | None = None,
        counts_to: Path | None = None,
        around: Surroundings = USUAL,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self._said, said = os.pipe()  # not a file, which faults would hit; one line or two fit in
        self._started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            for fd in pass_fds:
                os.set_inheritable(fd, True)
            _run_and_exit(folder, arguments, said, fault, counts_to, around)
        os.close(said)

    def at(self, seconds: float, act: Callable[[], object]) -> bool:
        """Acts after so many seconds of the run; not, and False, if it has ended by itself before."""
        deadline = self._started + seconds
        while time.monotonic() < deadline:
            if self.has_ended():
                return False
            time.sleep(min(0.002, max(0.0, deadline - time.monotonic())))
        act()
        return True

    def signal_after(self, seconds: float, signum: int = signal.SIGKILL) -> bool:
        """False if it ended by itself before."""
        return self.at(seconds, lambda: os.kill(self.pid, signum))

    def wait(self, limit: float = 120.0) -> Ended:
        """Kills it with SIGABRT, and so fails the campaign, if it hangs."""
        deadline = self._started + limit
        while not self.has_ended():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGABRT)
            time.sleep(0.002)
        _, status = os.waitpid(self.pid, 0)
        with os.fdopen(self._said, errors="replace") as said:
            return Ended(os.waitstatus_to_exitcode(status), said.read(), time.monotonic() - self._started)

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _run_and_exit(
    folder: Path, arguments: Sequence[str], said: int, fault: Fault | None, counts_to: Path | None, around: Surroundings
) -> None:
    """In the child: never returns."""
    code = 70
    try:
        os.dup2(said, 2)
        os.chdir(folder)
        _surround(around)
        from pagecli.__main__ import SIGNALS, end_at_once
        from pagecli.cli.app import main

        for number in SIGNALS:
            signal.signal(number, end_at_once)
        if fault is not None:
            injected_faults.install(fault, folder)
        elif counts_to is not None:
            injected_faults.count_calls(folder)
        try:
            main(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
        if counts_to is not None:
            counts_to.write_text(json.dumps(injected_faults.counts()))
    except BaseException as error:
        os.write(said, f"not caught: {error!r}\n".encode())
    finally:
        os._exit(code)


def _surround(around: Surroundings) -> None:
    if around.environment:
        os.environ.update(around.environment)
        from pagecli.devices.cpu import kernels

        importlib.reload(kernels)  # which instruction set is chosen when it is loaded
    if around.now is not None:
        _set_clock(datetime.fromisoformat(around.now))
    for fd in around.closed:  # as the interpreter does at its start
        os.close(fd)
        setattr(sys, ("stdin", "stdout", "stderr")[fd], None)
    if around.closed:
        from pagecli.cli.terminal.console import open_standard_streams

        open_standard_streams()  # as the program does, where it does not return to a caller


def _set_clock(begin: datetime) -> None:
    """The time is `begin` now, and goes on from there, for all of pagecli that asks datetime."""
    real, started = datetime, time.monotonic()

    class Clock(real):
        fromisoformat = real.fromisoformat
        fromtimestamp = real.fromtimestamp

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return begin.replace(tzinfo=tz) + timedelta(seconds=time.monotonic() - started)

    for name, module in list(sys.modules.items()):
        if name.startswith("pagecli") and vars(module).get("datetime") is real:
            module.datetime = Clock  # type: ignore[attr-defined]


def start_process(folder: Path, arguments: Sequence[str], closed: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    """A run in a process of its own, imports and all, without the descriptors `closed`."""
    closing = " ".join(f"{fd}<&-" for fd in closed)
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-m", "pagecli", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def content(path: Path) -> object:
    """What must be the same: the bytes, or the table of a Parquet file or a database."""
    if path.suffix == ".sqlite":
        import sqlite3

        rows = sqlite3.connect(path).execute("SELECT * FROM rows ORDER BY rowid")
        return [column[0] for column in rows.description], rows.fetchall()
    if path.suffix == ".duckdb":
        import duckdb

        found = duckdb.connect(str(path), read_only=True).execute("SELECT * FROM rows ORDER BY rowid")
        return found.description, found.fetchall()
    if path.suffix != ".parquet":
        return path.read_bytes()
    import pyarrow.parquet as pq

    return pq.read_table(path, use_threads=False)


def same_content(one: Path, other: Path) -> bool:
    """Compared in a forked process, as pyarrow starts threads."""
    return in_fork(lambda: content(one) == content(other))


def in_fork(act: Callable[[], object]) -> bool:
    """Whether `act` gives something true, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            good = bool(act())
        finally:
            os._exit(0 if good else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
