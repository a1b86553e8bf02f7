"""The hidden directory beside an output while its job is not finished: `.out.parquet.pagecli-journal/`.

    lock            the process that runs the job (job_lock.py)
    journal         the job's identity and its finished rows (journal.py)
    outcome         how it ends, written when every row is there, and which file (device, inode, size) is about to become the
                    output: a run that finds that file in place only removes the journal
    *.tmp           the output while it is being written

Only its owner can read or write it (mode 0700). In a shared directory other users may create links: the directory and the files
in it are opened without following symbolic links, and one that belongs to another user is refused.

Journal and outcome are append-only logs of text lines, each with a checksum and its kind:

    9ae0daaf row 17 1 0 3f6c1d2e9b7a5c40 [{"text":"Paris","finish_reason":"stop"}]

crc32 of what follows it in hexadecimal, a blank, the kind, a blank, the rest, which has no line break. A line that was cut
short or damaged fails its checksum and is passed over, and reading continues at the next line break: damage costs the lines it
hits. No text of a row can be taken for a line, as JSON has no line break in it. A writer that reopens a log begins with a line
break, so that a line cut short damages no other.

Why no database: SQLite was measured beside it. It takes the same CPU time a row (11 to 14 us, this 9 to 11), but a commit takes
30 to 180 ms, so that rows would be written by the clock and not in the step in which they finish; of a file cut short it reads
nothing (this: all that is left); of 100 files with pieces zeroed it lost all rows of 6 (this: those that were hit); and it
needs locks that network file systems may lack.
"""

import contextlib
import errno
import hashlib
import json
import os
import shlex
import stat
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pagecli.core.json_text import parsed
from pagecli.errors import InputError, PagecliError, UsageError, reason_of

_CHECKSUM_BYTES = 9  # with the blank


def log_line(kind: bytes, rest: bytes) -> bytes:
    """One line of the log; `rest` has no line break."""
    body = b"%b %b" % (kind, rest)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def json_line(kind: bytes, value: Mapping[str, Any]) -> bytes:
    return log_line(kind, json.dumps(value, separators=(",", ":")).encode("ascii"))


def read_log(file: BinaryIO) -> Iterator[tuple[int, bytes, bytes]]:
    """(offset, kind, rest) of every whole line from where the file stands, in order. Memory: one line."""
    offset = file.tell()
    for line in file:
        found = _parsed(line)
        if found is not None:
            yield (offset, *found)
        offset += len(line)


def read_line(file: BinaryIO, offset: int) -> tuple[bytes, bytes] | None:
    """(kind, rest) of the line at byte `offset`; None if it is damaged."""
    file.seek(offset)
    return _parsed(file.readline())


def append(fd: int, data: bytes) -> None:
    """Writes whole lines to the end of the log. Raises OSError; what was there before stays good."""
    end = os.lseek(fd, 0, os.SEEK_END)
    while data:
        written = os.pwrite(fd, data, end)
        end += written
        data = data[written:]


def json_of(rest: bytes) -> dict[str, Any]:
    """What json_line was given; empty if it is none."""
    try:
        value = parsed(rest)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _parsed(line: bytes) -> tuple[bytes, bytes] | None:
    body = line[_CHECKSUM_BYTES:-1]
    if not line.endswith(b"\n") or line[:_CHECKSUM_BYTES] != b"%08x " % zlib.crc32(body):
        return None
    kind, _, rest = body.partition(b" ")
    return kind, rest


NAME_BYTES = 255  # the longest file name of the usual file systems
SUFFIX = ".pagecli-journal"
TEMPORARY_SUFFIX = ".tmp"
LOG, OUTCOME = "journal", "outcome"
_OUTCOME_LINE, _PUBLISHED_LINE = b"outcome", b"published"
LOCK = "lock"
HEARTBEAT = "heartbeat.json"
REMOVE_TRIES = 3


def job_directory_path(output: Path, suffix: str = SUFFIX) -> Path:
    """Where the journal of `output` is or would be; its hidden directory of another kind by another suffix."""
    name = f".{output.name}{suffix}"
    if len(os.fsencode(name)) > NAME_BYTES:
        name = f".{hashlib.blake2b(os.fsencode(output.name), digest_size=16).hexdigest()}{suffix}"
    return output.parent / name


class DirectoryGoneError(InputError):
    """The directory is not there, or not any more: the run that had it removed it between its creation and its opening."""


class JobDirectory:
    """The directory, held open: what is done in it cannot be diverted by renaming it. Raises InputError, UsageError."""

    def __init__(self, output: Path, create: bool = True) -> None:
        self.output = output
        self.path = job_directory_path(output)
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.path, 0o700)
                    sync(output.parent)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DirectoryGoneError(f"{self.path}: no such directory") from error
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

    def sync(self) -> None:
        with contextlib.suppress(OSError):  # file systems without directory sync need none
            os.fsync(self._fd)

    def note(self, name: str, line: bytes, flags: int = 0) -> None:
        """Appends the line to one of its files, forced to the disk, its name too. Raises OSError, UsageError."""
        fd = self.open(name, os.O_RDWR | os.O_CREAT | flags)
        try:
            append(fd, line)
            os.fsync(fd)
            self.sync()
        finally:
            os.close(fd)

    def names(self) -> list[str]:
        return sorted(os.listdir(self._fd))

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def remove_temporaries(self) -> None:
        """Remove the temporary output of a killed run, and a database's logs of it; precondition: the lock is held."""
        for name in self.names():
            if TEMPORARY_SUFFIX in name or name.endswith(".new"):
                self.remove(name)

    def remove_contents(self) -> None:
        """Remove everything but the lock."""
        for name in self.names():
            if name != LOCK:
                self.remove(name)

    def remove_itself(self) -> None:
        """Remove the directory and its files, the note that the output is complete last."""
        for name in sorted(self.names(), key=lambda name: name == OUTCOME):
            self.remove(name)
        for _ in range(REMOVE_TRIES):
            try:
                os.rmdir(self.path)
            except OSError:  # a signal's heartbeat came meanwhile; anything else is another run's
                self.remove(HEARTBEAT)
                self.remove(f"{HEARTBEAT}.new")
            else:
                return

    def is_current(self) -> bool:
        """Whether the directory still has its name: another run may have removed it between our opening and locking it."""
        return _is_same(self._fd, self.path)

    def is_removed(self) -> bool:
        """Whether it has no name any more, not even another one."""
        return not os.fstat(self._fd).st_nlink

    def has(self, name: str, fd: int) -> bool:
        """Whether its file `name` is the open one."""
        return _is_same(fd, name, self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def now_of_files(directory: Path) -> float:
    """Now, by the clock that dates files in the directory: a server's may be another than this machine's, and this one may be
    set while jobs run. This machine's where no file can be made."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _is_same(fd: int, path: Path | str, directory: int | None = None) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, dir_fd=directory, follow_symlinks=False))
    except OSError:
        return False


def sync(path: Path) -> None:
    """fsync of a file or directory; a directory that has none, or may not be read, is left to its file system's own ways.

    Raises OSError.
    """
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
        values = {"device": found.st_dev, "inode": found.st_ino, "size": found.st_size}
        directory.note(OUTCOME, json_line(_PUBLISHED_LINE, values))
    finally:
        directory.close()


def note_outcome(directory: JobDirectory, values: Mapping[str, Any]) -> None:
    """Record how the job ends, before its output is complete. Raises OSError."""
    directory.note(OUTCOME, json_line(_OUTCOME_LINE, values), os.O_TRUNC)


def read_outcome(directory: JobDirectory) -> tuple[dict[str, Any] | None, bool]:
    """(what `note_outcome` noted, whether the output is in place: what has its name is the file that was published)."""
    try:
        with os.fdopen(directory.open(OUTCOME, os.O_RDONLY), "rb") as file:
            lines = {kind: json_of(rest) for _, kind, rest in read_log(file)}
    except FileNotFoundError:
        return None, False
    return lines.get(_OUTCOME_LINE), _is_published(directory, lines.get(_PUBLISHED_LINE, {}))


def _is_published(directory: JobDirectory, noted: Mapping[str, Any]) -> bool:
    try:
        found = os.stat(directory.output, follow_symlinks=False)
    except OSError:
        return False
    return (found.st_dev, found.st_ino, found.st_size) == (noted.get("device"), noted.get("inode"), noted.get("size"))


def _not_ours(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not this user's own plain file or directory", "remove it, or write the output into a directory of your own"
    )


def _unusable(path: Path, error: OSError) -> PagecliError:
    if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and path.parent.is_dir()):
        return _not_ours(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: no space left for the journal", "free some space, or write to another file system")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"{path}: the directory is not writable", "write to a directory you may create files in")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputError(f"{path.parent}: no such directory", f"create it: mkdir -p {shlex.quote(str(path.parent))}")
    return InputError(f"{path} cannot be opened: {reason_of(error)}")
