"""Faults at a chosen call of the operating system: a signal arrives there, or the call fails, or writes too little.

The calls are those of the whole process on files of one folder, whoever makes them (Python, SQLite, Arrow): failing_calls.c is
compiled and preloaded. A fault is installed in a process that is about to run a job and then to end; nothing is put back.
"""

import ctypes
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# As failing_calls.c numbers them.
CALLS = ("open", "read", "write", "sync", "truncate", "close", "link", "rename", "unlink", "mkdir", "rmdir")
_ACTIONS = ("count", "before", "within", "after", "fail", "short write")
SIGNAL_PLACES = ("before", "within", "after")
Action = Literal["before", "within", "after", "ENOSPC", "EIO", "short write", "file size"]
_PRELOADED = "LD_PRELOAD"


@dataclass(frozen=True, slots=True)
class Fault:
    """`action` at the `number`-th call (from 1) of kind `call`; "file size": files may not grow beyond `number` bytes."""

    call: str
    number: int
    action: Action
    signum: int = signal.SIGKILL  # for before, within, after


def preload() -> None:
    """Runs this program again with failing_calls.c in it, unless it is there already."""
    if hasattr(ctypes.CDLL(None), "calls_arm"):
        library = Path(os.environ.pop(_PRELOADED))  # processes that are started do not need it
        shutil.rmtree(library.parent)
        return
    library = Path(tempfile.mkdtemp(prefix="torture-")) / "failing_calls.so"
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", library, source, "-ldl"], check=True)
    os.environ[_PRELOADED] = str(library)
    os.execv(sys.executable, [sys.executable, *sys.argv])


def count_calls(folder: Path) -> None:
    """From now on calls on files of `folder` are counted."""
    _arm(folder, len(CALLS), 0, 0, 0)


def counts() -> Counter[str]:
    return Counter({name: ctypes.CDLL(None).calls_count(number) for number, name in enumerate(CALLS)})


def install(fault: Fault, folder: Path) -> None:
    if fault.action == "file size":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.number, resource.RLIM_INFINITY))
        return
    fails = fault.action in ("ENOSPC", "EIO")
    action = _ACTIONS.index("fail" if fails else fault.action)
    _arm(folder, CALLS.index(fault.call), fault.number, action, getattr(errno, fault.action) if fails else fault.signum)


def _arm(folder: Path, call: int, number: int, action: int, value: int) -> None:
    ctypes.CDLL(None).calls_arm(os.fsencode(folder), call, number, action, value)
