"""Which paths are one file: by device and inode where a file exists, by directory and name where none exists yet."""

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
    """A path, and the flag or argument (INPUT) that messages name it by."""

    part: str
    path: str

    def __str__(self) -> str:
        return f"{self.part} {self.path}"


def identity_of(path: str) -> Identity | None:
    """A value equal for all paths of one file; None for devices and sockets, which several readers and writers may share."""
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
        resolved = Path(os.path.realpath(path))
        folder = resolved.parent.stat()
    except (OSError, ValueError):
        return ("path", os.path.realpath(path)) if "\0" not in path else None
    return folder.st_dev, folder.st_ino, resolved.name


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
