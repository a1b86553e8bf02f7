"""Faults at a chosen call of the operating system: the process is killed there, or the call fails, or writes too little.

Installed in a process that is about to run a job and then to die; nothing is put back.
"""

import errno
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

# What a job does to the file system, by the names of the os module that pagecli calls.
CALLS = ("pwrite", "fsync", "fdatasync", "link", "replace", "unlink", "rmdir", "mkdir", "ftruncate", "open", "close", "listdir")
Action = Literal["kill before", "kill within", "kill after", "ENOSPC", "EIO", "short write"]


@dataclass(frozen=True, slots=True)
class Fault:
    """`action` at the `number`-th call (from 1) of os.`call`; "file size": files may not grow beyond `number` bytes."""

    call: str
    number: int
    action: Action | Literal["file size"]


def count_calls() -> Counter[str]:
    """From now on every call of CALLS is counted here."""
    counts: Counter[str] = Counter()
    for name in CALLS:
        _replace(name, lambda call, name=name: _counting(call, name, counts))
    return counts


def install(fault: Fault) -> None:
    if fault.action == "file size":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.number, resource.RLIM_INFINITY))
        return
    seen = [0]
    _replace(fault.call, lambda call: _faulty(call, fault, seen))


def _replace(name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    from pagecli.jobs.journal import journal

    wrapped = wrap(getattr(os, name))
    setattr(os, name, wrapped)
    if name == "fdatasync":
        journal._flush_to_disk = wrapped


def _counting(call: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    def counted(*args: Any, **named: Any) -> Any:
        counts[name] += 1
        return call(*args, **named)

    return counted


def _faulty(call: Callable[..., Any], fault: Fault, seen: list[int]) -> Callable[..., Any]:
    def faulty(*args: Any, **named: Any) -> Any:
        seen[0] += 1
        if seen[0] != fault.number:
            return call(*args, **named)
        if fault.action == "kill before":
            _die()
        if fault.action in ("ENOSPC", "EIO"):
            number = getattr(errno, fault.action)
            raise OSError(number, os.strerror(number))
        if fault.call == "pwrite" and fault.action in ("kill within", "short write"):
            fd, data, offset = args
            written = call(fd, data[: max(1, len(data) // 2)], offset)
            if fault.action == "short write":
                return written
            _die()
        result = call(*args, **named)
        if fault.action.startswith("kill"):
            _die()
        return result

    return faulty


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
