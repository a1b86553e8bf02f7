"""One check of `pagecli doctor`: the finding, its health, and a hint how to mend it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Health(StrEnum):
    ok = "ok"
    warn = "warn"  # jobs run, but worse than they could
    fail = "fail"  # jobs do not run


@dataclass(frozen=True, slots=True)
class Check:
    """`found` in a few words; `hint` one line, how to mend it, unless health is ok; `details` for programs."""

    name: str
    health: Health
    found: str
    hint: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check's result; an exception inside the check is a finding of its own."""
    try:
        return check()
    except Exception as error:
        return Check(
            name, Health.fail, f"{type(error).__name__}: {error}", "this should not happen: see the message, report it"
        )


def gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def is_writable(path: Path) -> bool:
    """Whether files can be made in `path`, or in the nearest directory above it that exists."""
    return os.access(nearest_existing(path), os.W_OK | os.X_OK)


def free_bytes(path: Path) -> int:
    """Free space for this user on the file system of `path`, or of the nearest directory above it that exists."""
    return shutil.disk_usage(nearest_existing(path)).free


def nearest_existing(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
