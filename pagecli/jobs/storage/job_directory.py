"""The hidden directory beside an output while its job is not finished: `.out.parquet.pagecli-journal/`.

    lock            who runs the job (see job_lock.py)
    job.json        which job it is, written once (see job_identity.py)
    rows            the finished rows (see journal.py)
    outcome.json    how the job ended, written when every row is there, before the output gets its name
    published.json  which file (device, inode, size) is about to become the output: a run that finds the output already
                    in place knows by it that only the tidying up was missed
    *.tmp           the output while it is being written

Only its owner can read or write it (mode 0700). In a shared directory others may plant things: the directory and the files in
it are opened without following symbolic links, and one that belongs to somebody else is refused.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pagecli.errors import InputError, PagecliError, UsageError

NAME_BYTES = 255  # the longest file name of the usual file systems
SUFFIX = ".pagecli-journal"
TEMPORARY_SUFFIX = ".tmp"
OUTCOME = "outcome.json"
PUBLISHED = "published.json"
LOCK = "lock"


def job_directory_path(output: Path) -> Path:
    """Where the journal of `output` is or would be."""
    name = f".{output.name}{SUFFIX}"
    if len(os.fsencode(name)) > NAME_BYTES:
        name = f".{hashlib.blake2b(os.fsencode(output.name), digest_size=16).hexdigest()}{SUFFIX}"
    return output.parent / name


class JobDirectory:
    """The directory, held open: what is done in it cannot be diverted by renaming it. Raises InputError, UsageError."""

    def __init__(self, output: Path, create: bool = True) -> None:
        self.output = output
        self.path = job_directory_path(output)
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.path, 0o700)
                    _sync_directory(output.parent)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _unusable(self.path, error) from error
        owner = os.fstat(self._fd)
        if owner.st_uid != os.geteuid() or owner.st_mode & 0o022:
            os.close(self._fd)
            raise _not_ours(self.path)

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a regular file in it, created with mode 0600 where `flags` say so. Raises OSError, UsageError."""
        try:
            fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=self._fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _not_ours(self.path / name) from error
            raise
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
            os.close(fd)
            raise _not_ours(self.path / name)
        return fd

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A file that write_json wrote, or None if it is not there, cut short or damaged. Raises InputError, UsageError."""
        try:
            with os.fdopen(self.open(name, os.O_RDONLY), "rb") as file:
                value = json.loads(file.read())
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise InputError(f"{self.path / name} cannot be read: {error.strerror or error}", "try again") from error
        if not isinstance(value, dict) or value.pop("checksum", None) != _checksum(value):
            return None
        return value

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes the file in one step, durably. Raises OSError."""
        new = f"{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=self._fd)
        content = json.dumps({**value, "checksum": _checksum(value)}, indent=1).encode("ascii")
        fd = self.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(new, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self.sync()

    def sync(self) -> None:
        with contextlib.suppress(OSError):  # file systems that cannot sync a directory keep it safe by themselves
            os.fsync(self._fd)

    def names(self) -> list[str]:
        return sorted(os.listdir(self._fd))

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def remove_temporaries(self) -> None:
        """What a killed run left of an output it was writing; call it with the lock held."""
        for name in self.names():
            if name.endswith((TEMPORARY_SUFFIX, ".new")):
                self.remove(name)

    def remove_contents(self) -> None:
        """Everything but the lock."""
        for name in self.names():
            if name != LOCK:
                self.remove(name)

    def remove_itself(self) -> None:
        """With all that is in it; what says that the output is in place goes last."""
        last = (OUTCOME, PUBLISHED)
        for name in [*(name for name in self.names() if name not in last), *last]:
            self.remove(name)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)

    def is_current(self) -> bool:
        """Whether the directory still has its name: another run may have removed it between our opening and locking it."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        own = os.fstat(self._fd)
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _sync_directory(path: Path) -> None:
    """Makes new names in it last; without effect where a directory cannot be synced."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def temporary_home(final: Path) -> Path:
    """Where the temporary of `final` goes: into the directory of its job, if it has one that is ours, else beside it."""
    path = job_directory_path(final)
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return final.parent
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return path if ours else final.parent


def note_publishing(temporary: Path, final: Path) -> None:
    """Remembers, in the directory of the job, that `temporary` is about to get the name `final`. Raises OSError."""
    if temporary.parent != job_directory_path(final):
        return
    directory = JobDirectory(final, create=False)
    try:
        found = os.stat(temporary, follow_symlinks=False)
        directory.write_json(PUBLISHED, {"device": found.st_dev, "inode": found.st_ino, "size": found.st_size})
    finally:
        directory.close()


def was_published(directory: JobDirectory) -> bool:
    """Whether the file under the output's name is the one that this job put there."""
    noted = directory.read_json(PUBLISHED)
    if noted is None:
        return False
    try:
        found = os.stat(directory.output, follow_symlinks=False)
    except OSError:
        return False
    return (found.st_dev, found.st_ino, found.st_size) == (noted.get("device"), noted.get("inode"), noted.get("size"))


def _checksum(value: Mapping[str, Any]) -> str:
    content = json.dumps(value, sort_keys=True).encode("ascii")
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _not_ours(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not this user's own plain file or directory", "remove it, or write the output into a directory of your own"
    )


def _unusable(path: Path, error: OSError) -> PagecliError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return _not_ours(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: no space left for the journal", "free some space, or write to another file system")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"{path}: the directory is not writable", "write to a directory you may create files in")
    if error.errno == errno.ENOENT:
        return InputError(f"{path.parent}: no such directory", f"create it: mkdir -p {path.parent}")
    return InputError(f"{path} cannot be opened: {error.strerror or error}")
