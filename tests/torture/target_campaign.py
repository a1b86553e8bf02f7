"""Writing to what is no regular file: pipes, devices, descriptors, symbolic links, for every flag that names a file.

Whatever happens to a run, the pipe, device or link is there afterwards as it was; rows that come out of a pipe are the first
ones of the undisturbed run, and all of them if the run ended well. Devices are copies in a folder of their own.
"""

import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cases
from campaign import FAILED_WELL, GOOD, REFUSED, SIGNALS, Campaign, LossError
from cases import Case
from tortured_run import ForkedRun

FLAGS = ("OUTPUT", "--stats", "--metrics-file", "--log-file", "--progress-json")
NULL, FULL = os.makedev(1, 3), os.makedev(1, 7)
OUTPUT = "out.jsonl"


@dataclass(frozen=True, slots=True)
class Target:
    """A name to write to. `make(path)` puts it in place; `is_stream`: what is written can be read at its other end."""

    name: str
    make: Callable[[Path], None] = lambda path: None
    is_stream: bool = False
    is_full: bool = False


def _link_to_file(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere/file.jsonl")


def _link_to_old_file(path: Path) -> None:
    _link_to_file(path)
    (path.parent / "elsewhere" / "file.jsonl").write_bytes(cases.OLD_OUTPUT)


TARGETS = (
    Target("named pipe", os.mkfifo, is_stream=True),
    Target("descriptor", is_stream=True),
    Target("null device", lambda path: os.mknod(path, stat.S_IFCHR | 0o666, NULL)),
    Target("full device", lambda path: os.mknod(path, stat.S_IFCHR | 0o666, FULL), is_full=True),
    Target("link to nothing", _link_to_file),
    Target("link to a file", _link_to_old_file),
)


def can_make_devices(folder: Path) -> bool:
    """Whether this user may make devices, and open them there."""
    path = folder / "device"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, NULL)
        try:
            os.close(os.open(path, os.O_WRONLY))
        finally:
            os.unlink(path)
    except OSError:
        return False
    return True


class TargetCampaign:
    """One small job, written to targets of every kind."""

    def __init__(self, campaign: Campaign, num_rows: int) -> None:
        self._campaign = campaign
        self._random = campaign.random
        self._counts = campaign.counts
        self._case = Case("targets", cases.write_prompts, flags=cases.RANDOM_WEIGHTS)
        self._home = campaign.root / "targets"
        cases.write_case(self._case, self._home, campaign.models, num_rows)
        ended = ForkedRun(self._home, self._case.arguments()).wait()
        if ended.code not in GOOD:
            raise LossError(f"the undisturbed run ended with {ended.code}: {ended.said}")
        self._seconds = ended.seconds
        self._whole = (self._home / OUTPUT).read_bytes()
        os.unlink(self._home / OUTPUT)
        with_devices = can_make_devices(campaign.root)
        self._targets = [target for target in TARGETS if with_devices or "device" not in target.name]

    def torture(self, flag: str, target: Target, kills: int) -> None:
        """One flag and one target: runs that are killed, then one that is not."""
        folder = self._campaign.root / "job"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._home, folder, symlinks=True)
        path = folder / "target.jsonl"
        target.make(path)
        self._counts["targets"] += 1
        self._counts[f"targets: {target.name}"] += 1
        for number in range(kills + 1):
            self._run(folder, path, flag, target, is_disturbed=number < kills)

    def all_pairs(self) -> Iterator[tuple[str, Target]]:
        for flag in FLAGS:
            for target in self._targets:
                yield flag, target

    def _run(self, folder: Path, path: Path, flag: str, target: Target, is_disturbed: bool) -> None:
        before = _look(path)
        with _reading(path, target) as (name, fds, received):
            arguments = self._arguments(flag, name)
            run = ForkedRun(folder, arguments, pass_fds=fds)
            signum = signal.SIGKILL if self._random.random() < 0.7 else self._random.choice(SIGNALS)
            if is_disturbed:
                run.signal_after(self._random.random() * self._seconds, signum)
            ended = run.wait()
        self._counts["kills"] += ended.code == -signal.SIGKILL
        self._counts["kills of runs that write to targets"] += ended.code == -signal.SIGKILL
        what = f"{flag} to a {target.name}, ended with {ended.code}: {ended.said}"
        if _look(path) != before:
            raise LossError(f"the target is another: {what}")
        if ended.code in (REFUSED, *FAILED_WELL):
            if not ended.is_well_said:
                raise LossError(f"said badly: {what}")
            self._counts["targets refused"] += 1
        elif ended.code not in GOOD and not (is_disturbed and ended.code in (-signum, 128 + signum)):
            raise LossError(what)
        if flag == "OUTPUT":
            self._check_rows(path, target, b"".join(received), ended.code in GOOD, what)
        elif ended.code in GOOD and (folder / OUTPUT).read_bytes() != self._whole:
            raise LossError(f"the output differs: {what}")

    def _arguments(self, flag: str, target: str) -> list[str]:
        if flag == "OUTPUT":
            usual = self._case.arguments()
            return [*usual[:2], target, *usual[3:], "--overwrite"]
        return [*self._case.arguments(), "--overwrite", flag, target]

    def _check_rows(self, path: Path, target: Target, received: bytes, is_complete: bool, what: str) -> None:
        if target.is_stream:
            if (is_complete and received != self._whole) or not self._whole.startswith(received):
                raise LossError(f"{len(received)} bytes came out of the pipe that differ: {what}")
        elif target.is_full and is_complete:
            raise LossError(f"nothing was said of a full device: {what}")
        elif path.is_symlink() and is_complete:
            if path.read_bytes() != self._whole:
                raise LossError(f"the file behind the link differs: {what}")
            self._counts["outputs identical to an undisturbed run"] += 1


def _look(path: Path) -> object:
    """What tells a target from what may stand in its place; its times and what a link leads to may change."""
    if not os.path.lexists(path):
        return None
    found = os.lstat(path)
    link = os.readlink(path) if stat.S_ISLNK(found.st_mode) else None
    return found.st_mode, found.st_ino, found.st_rdev, link


@contextmanager
def _reading(path: Path, target: Target) -> Iterator[tuple[str, tuple[int, ...], list[bytes]]]:
    """(the name to write to, descriptors for the run, what is received); the other end is read until all writers are gone."""
    received: list[bytes] = []
    if not target.is_stream:
        yield path.name, (), received
        return
    if target.name == "descriptor":
        read_end, write_end = os.pipe()
    else:
        read_end, write_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK), os.open(path, os.O_WRONLY)
        os.set_blocking(read_end, True)

    def read() -> None:
        while piece := os.read(read_end, 1 << 16):
            received.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield (f"/dev/fd/{write_end}", (write_end,), received) if target.name == "descriptor" else (path.name, (), received)
    finally:
        os.close(write_end)
        reader.join()
        os.close(read_end)
