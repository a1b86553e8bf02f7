"""Bytes of an input file or pipe, decompressed; another thread can interrupt a waiting read; a changed file is noticed."""

import errno
import gzip
import io
import os
import select
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecli.core import file_targets
from pagecli.core.file_targets import descriptor_of, mode_of, unusable_path
from pagecli.errors import InputError

BUFFER_BYTES = 1 << 18
COMPRESSED_PIECE_BYTES = 1 << 12


class InterruptibleStream(io.RawIOBase):
    """A pipe or terminal read through its own descriptor; after `interrupt()` it reads as ended."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._wake_read, self._wake_write = os.pipe()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        poll = select.poll()  # unlike select, of descriptors of any number
        for fd in (self._fd, self._wake_read):
            poll.register(fd, select.POLLIN)
        if self._wake_read in [fd for fd, _ in poll.poll()]:
            return 0
        return os.readv(self._fd, [buffer])  # type: ignore[list-item]

    def interrupt(self) -> None:
        if not self.closed:
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        if not self.closed:
            for fd in (self._fd, self._wake_read, self._wake_write):
                os.close(fd)
        super().close()


def is_stream(path: str) -> bool:
    """True for `-`, an open descriptor (/dev/fd/N), a named pipe, a process substitution or a terminal: readable once, size
    unknown. Raises InputError for a path that no file can have."""
    if path == "-" or descriptor_of(path) is not None:
        return True
    mode = mode_of(path)
    return mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode))


def open_raw(path: str) -> io.RawIOBase:
    """Opens the input's bytes as they are. Raises InputError."""
    if file_targets.is_remote(path):
        from pagecli.jobs.storage import remote_files

        return remote_files.open_for_reading(path)
    try:
        number = 0 if path == "-" else descriptor_of(path)
        if number == 0 and sys.__stdin__ is None:
            raise InputError("standard input is closed", "run it with standard input open, or name a file")
        if number is not None:
            return InterruptibleStream(os.dup(number))
        if is_stream(path):
            return InterruptibleStream(os.open(path, os.O_RDONLY))
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise unreadable(path, error) from error


def size_of(raw: io.RawIOBase) -> int:
    """Bytes of an opened file that can be read at any offset."""
    size = raw.seek(0, io.SEEK_END)
    raw.seek(0)
    return size


class CountedStream(io.RawIOBase):
    """A stream that counts the bytes it yields, at most `most_bytes` a read."""

    def __init__(self, stream: io.RawIOBase, most_bytes: int | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._most_bytes = most_bytes
        self.num_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._stream.readinto(memoryview(buffer)[: self._most_bytes])
        self.num_bytes += count or 0
        return count

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class _ZstdStream(CountedStream):
    """The content of a stream that zstd compressed. Reading raises OSError where it is damaged."""

    def __init__(self, compressed: io.RawIOBase) -> None:
        import pyarrow as pa

        super().__init__(io.BufferedReader(pa.CompressedInputStream(compressed, "zstd"), 1 << 16))  # type: ignore
        self._error = pa.ArrowException

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except self._error as error:
            raise OSError(str(error)) from error


class Content:
    """The content of a stream, decompressed as the end of its path says, and how much of the stream it took."""

    def __init__(self, raw: io.RawIOBase, path: str) -> None:
        suffix = Path(path).suffix.lower()
        compressed = suffix in (".gz", ".zst")
        # A decompressor reads ahead: in small pieces, the bytes it took are about those that it has decompressed.
        self._taken = CountedStream(raw, COMPRESSED_PIECE_BYTES if compressed else None)
        self._given = self._taken
        if suffix == ".gz":
            self._given = CountedStream(gzip.GzipFile(fileobj=self._taken, mode="rb"))  # type: ignore
        elif suffix == ".zst":
            self._given = _ZstdStream(self._taken)
        self.file: io.BufferedReader = io.BufferedReader(self._given, BUFFER_BYTES)

    @property
    def bytes_ratio(self) -> float | None:
        """Bytes of the content for each byte of the stream, as far as it has been read; None before that."""
        return self._given.num_bytes / self._taken.num_bytes if self._taken.num_bytes else None


def decompressed(raw: io.RawIOBase, path: str) -> io.BufferedReader:
    """The stream's content; what its name ends with says how it is compressed."""
    return Content(raw, path).file


def write_all(fd: int, content: bytes | bytearray) -> None:
    """Writes all of it, waiting for room also where the descriptor itself does not wait. Raises OSError."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            wait_for_room(fd)


def wait_for_room(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


def unreadable(path: str, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file", "check the path; - reads JSON Lines from standard input")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path} is a directory", "give a file, or a directory of them")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: permission denied", "make the file readable for this user")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return unusable_path(path, error)
    return InputError(f"{path} cannot be read: {error.strerror or error}")


@dataclass(frozen=True, slots=True)
class FileVersion:
    """A local file as it was at one moment."""

    device: int
    inode: int
    size: int  # bytes
    mtime_ns: int

    @classmethod
    def of(cls, file: str | int) -> "FileVersion":
        """Of a path or an open descriptor. Raises OSError."""
        found = os.stat(file)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    @classmethod
    def of_input(cls, path: str) -> "FileVersion | None":
        """None of a URL, and of a file that is not there, which opening it says better."""
        try:
            return None if file_targets.is_remote(path) else cls.of(file_targets.local(path))
        except OSError:
            return None

    def check(self, path: str) -> None:
        """Raises InputError if what `path` names now is not this version."""
        try:
            now = FileVersion.of(path)
        except OSError as error:
            raise _changed(path, f"is gone ({error.strerror})") from error
        if now == self:
            return
        if (now.device, now.inode) != (self.device, self.inode):
            raise _changed(path, "was replaced by another file")
        if now.size != self.size:
            verb = "truncated" if now.size < self.size else "added to"
            raise _changed(path, f"was {verb} ({self.size:,} bytes, now {now.size:,})")
        raise _changed(path, "was written to")


def _changed(path: str, what: str) -> InputError:
    return InputError(f"{path} {what} while it was read", "put it back as it was, then run the same command again")
