"""Which paths are one file: by device and inode where there is a file, by place and name where there is none yet."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pagecli.core.file_targets import descriptor_of
from pagecli.errors import UsageError

Identity = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path, and what messages call its part: a flag, INPUT."""

    part: str
    path: str

    def __str__(self) -> str:
        return f"{self.part} {self.path}"


def identity_of(path: str) -> Identity | None:
    """Equal for paths that lead to one file; None for what any number of readers and writers may share: devices, sockets."""
    number = descriptor_of(path)
    try:
        found = os.stat(path) if number is None else os.fstat(number)
    except (OSError, ValueError):
        return _identity_of_new(path) if number is None else None
    if stat.S_ISCHR(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        return None
    return found.st_dev, found.st_ino


def _identity_of_new(path: str) -> Identity | None:
    try:
        place = Path(os.path.realpath(path))
        folder = place.parent.stat()
    except (OSError, ValueError):
        return ("path", os.path.realpath(path)) if "\0" not in path else None
    return folder.st_dev, folder.st_ino, place.name


def exists(path: str) -> bool:
    return descriptor_of(path) is not None or os.path.exists(path)


def check_distinct(written: Iterable[NamedPath], read: Iterable[NamedPath]) -> None:
    """Raises UsageError if a written file is also read, or written twice. `read` is not looked at if no written file exists."""
    found: dict[Identity, NamedPath] = {}
    for each in written:
        identity = identity_of(each.path)
        if identity is None:
            continue
        if identity in found:
            raise UsageError(f"{each} is the same file as {found[identity]}", "give each a file of its own")
        found[identity] = each
    if not any(exists(each.path) for each in found.values()):
        return
    for each in read:
        identity = identity_of(each.path)
        if identity is not None and identity in found:
            raise UsageError(f"{found[identity]} is a file that is read: {each}", "write to another file")
