"""An input of bytes or of lines, whatever is in them: opened, decompressed, read line by line, and how far reading has come.

Another thread can interrupt a read that waits for a pipe; a file that is changed while it is read is noticed.
"""

import errno
import gzip
import io
import os
import select
import sys
import zlib
from dataclasses import dataclass
from typing import Any

from pagecli.core import file_targets
from pagecli.core.file_targets import descriptor_of, unusable_path
from pagecli.errors import InputError, reason_of
from pagecli.jobs.rows.row import RowEstimate

UTF8_BOM = b"\xef\xbb\xbf"
START_BYTES = 256
BUFFER_BYTES = 1 << 18
COMPRESSED_PIECE_BYTES = 1 << 12
COMPRESSED_SUFFIXES = (".gz", ".zst")
MAX_ROW_BYTES = 64 << 20
SKIPPED_BYTES = 1 << 20  # held at a time of a line that is too long
MAX_BYTES_WITHOUT_ROW = 1 << 30  # of a content whose size is not known: it may have no end
_TO_UTF8 = "convert it: iconv -f utf-16 -t utf-8"
# First bytes of what is no lines of text: (bytes, what it is, hint for a file, hint for a stream).
OTHER_FORMATS = (
    (b"PAR1", "a Parquet file", "rename it to end in .parquet", "name the file; Parquet cannot be read from a pipe"),
    (b"\x1f\x8b", "gzip-compressed", "rename it to end in .gz", "decompress it on the way: gzip -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "rename it to end in .zst", "decompress it on the way: zstd -dc"),
    (b"BZh", "bzip2-compressed", "decompress it: bzip2 -d", "decompress it on the way: bzip2 -dc"),
    (b"\xfd7zXZ\x00", "xz-compressed", "decompress it: xz -d", "decompress it on the way: xz -dc"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it: unzip", "unpack it on the way: unzip -p"),
    (b"\xff\xfe", "UTF-16 text", _TO_UTF8, _TO_UTF8),
    (b"\xfe\xff", "UTF-16 text", _TO_UTF8, _TO_UTF8),
)


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
        if file_targets.is_stream(path):
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
        self._taken = self._given = None
        if path.lower().endswith(COMPRESSED_SUFFIXES):
            # A decompressor reads ahead: in small pieces, the bytes it took are about those that it has decompressed.
            self._taken = CountedStream(raw, COMPRESSED_PIECE_BYTES)
            self._given = raw = _decompressed(self._taken, path)
        self.file: io.BufferedReader = io.BufferedReader(raw, BUFFER_BYTES)

    @property
    def bytes_ratio(self) -> float | None:
        """Bytes of the content for each byte of the stream, as far as it has been read; None before that."""
        if self._taken is None or self._given is None:
            return 1.0
        return self._given.num_bytes / self._taken.num_bytes if self._taken.num_bytes else None


def _decompressed(compressed: CountedStream, path: str) -> CountedStream:
    if path.lower().endswith(".gz"):
        return CountedStream(gzip.GzipFile(fileobj=compressed, mode="rb"))  # type: ignore
    return _ZstdStream(compressed)


def decompressed(raw: io.RawIOBase, path: str) -> io.BufferedReader:
    """The stream's content; what its name ends with says how it is compressed."""
    return Content(raw, path).file


def unreadable(path: str, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file", "check the path; - reads JSON Lines from standard input")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path} is a directory", "give a file, or a directory of them")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: permission denied", "make the file readable for this user")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return unusable_path(path, error)
    return InputError(f"{path} cannot be read: {reason_of(error)}")


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


class LineTooLongError(Exception):
    """A line of more bytes than a row may have; it has been passed over. `message` says so, `num_quotes` counts its "."""

    def __init__(self, num_bytes: int, max_bytes: int, num_quotes: int = 0) -> None:
        super().__init__(num_bytes)
        self.num_bytes = num_bytes
        self.num_quotes = num_quotes
        self.message = row_too_large(num_bytes, max_bytes)


def row_too_large(num_bytes: int, max_bytes: int) -> str:
    return f"{num_bytes:,} bytes, more than the {max_bytes:,} of --max-row-bytes"


class TextInput:
    """What sources of rows out of lines share: they count `_num_rows`, up to `limit`, and set `_ended` after the last.

    Opens at once, so that a missing or mislabelled file is found before anything slow. Raises InputError.

    `kind` is what messages call the format. `start` has the first bytes of a file, and is empty of a pipe.
    """

    def __init__(self, path: str, kind: str, limit: int | None = None, max_row_bytes: int = MAX_ROW_BYTES) -> None:
        self.name = "standard input" if path == "-" else file_targets.shown(path)
        self.max_row_bytes = max_row_bytes
        self.line_number = 0  # of the line read last, from 1
        self.start = b""
        self._kind = kind
        self._limit = limit
        self._num_rows = 0
        self._parsed_bytes = 0  # of the lines read so far
        self._last_row = (0, 0)  # _num_rows, and _parsed_bytes when it became that
        self._header_bytes = 0  # of them, before the first row
        self._ended = self._lines_ended = False  # every row was read; readline has come to the end
        self._path = file_targets.local(path)
        self._raw = open_raw(path)
        try:
            self._size = None if file_targets.is_stream(path) else size_of(self._raw)
            is_local_file = self._size is not None and not file_targets.is_remote(path)
            self._version = FileVersion.of(self._raw.fileno()) if is_local_file else None
            is_compressed = path.lower().endswith(COMPRESSED_SUFFIXES)
            self._may_be_endless = self._size is None or is_compressed
            if self._size is not None:
                self.start = self._raw.read(START_BYTES) or b""
                self._raw.seek(0)
                if not is_compressed:
                    self._check_format(self.start)
            self._content = Content(self._raw, path)
            self._file = self._content.file
        except BaseException:
            self._raw.close()
            raise

    def _check_format(self, start: bytes) -> None:
        for magic, what, hint_for_file, hint_for_stream in OTHER_FORMATS:
            if start.startswith(magic):
                hint = hint_for_stream if self._size is None else hint_for_file
                raise InputError(f"{self.name} is {what}, not {self._kind}", hint)

    def readline(self, starts_row: bool = True) -> bytes:
        """The next line with its line break; empty at the end. Raises InputError, LineTooLongError.

        Where a row starts, a byte order mark is taken off: files that were put together have one before each.
        """
        try:
            line = self._file.readline(self.max_row_bytes + 2)  # and its line break
            num_bytes = len(line)
            is_whole = num_bytes < self.max_row_bytes + 2 or line.endswith(b"\n")
            is_too_long = not is_whole or (num_bytes > self.max_row_bytes < len(line.rstrip(b"\r\n")))
            num_quotes = line.count(b'"') if is_too_long else 0
            self._check_has_rows(num_bytes)
            while is_too_long and line and not line.endswith(b"\n"):
                line = self._file.readline(SKIPPED_BYTES)
                num_bytes += len(line)
                self._check_has_rows(num_bytes)
                num_quotes += line.count(b'"')
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{self.name} cannot be read after line {self.line_number}: {reason_of(error)}",
                "the file may be cut short or damaged; check it with gzip -t or zstd -t",
            ) from error
        self._lines_ended = not num_bytes
        if num_bytes:
            self.line_number += 1
            self._parsed_bytes += num_bytes
        if is_too_long:
            raise LineTooLongError(num_bytes, self.max_row_bytes, num_quotes)
        if self._size is None and self.line_number == 1:
            self._check_format(line)
        return line.removeprefix(UTF8_BOM) if starts_row else line

    def _check_has_rows(self, num_bytes: int) -> None:
        """`num_bytes`: of the line that is being read. Raises InputError for bytes without end that make no row: of a device
        (/dev/zero), of a quote that is never closed."""
        if not self._may_be_endless:
            return
        if self._num_rows != self._last_row[0]:
            self._last_row = self._num_rows, self._parsed_bytes
        passed = self._parsed_bytes + num_bytes - self._last_row[1]
        if passed > max(MAX_BYTES_WITHOUT_ROW, 16 * self.max_row_bytes):
            where = f"row {self._num_rows:,}" if self._num_rows else "its start"
            raise InputError(f"{self.name} has no whole row in {passed:,} bytes after {where}", f"see that it is {self._kind}")

    def end_header(self) -> None:
        """The lines read so far are no rows."""
        self._header_bytes = self._parsed_bytes

    def check_unchanged(self) -> None:
        """To be called after the last line. Raises InputError if the file is no longer what was opened, or ended early."""
        if self._version is not None:
            self._version.check(self._path)
        elif self._size is not None and self._lines_ended and self._raw.tell() < self._size:
            read = f"{self._raw.tell():,} of {self._size:,} bytes"
            raise InputError(f"{self.name} ended early, after {read}", "run the same command again")

    def estimate(self) -> RowEstimate | None:
        """How many rows there will be if all are as long as those read so far; None of a pipe.

        Goes by the bytes of the lines that were parsed, not by those that buffers and decompression have read ahead.
        """
        if self._ended:
            return RowEstimate(self._num_rows, exact=True)
        num_rows, ratio, row_bytes = self._num_rows, self._content.bytes_ratio, self._parsed_bytes - self._header_bytes
        if self._size is None or ratio is None or not num_rows or not row_bytes:
            return None
        content_bytes = self._size * ratio - self._header_bytes
        guess = max(num_rows, round(num_rows * content_bytes / row_bytes))
        return RowEstimate(guess if self._limit is None else min(guess, self._limit), exact=False)

    def interrupt(self) -> None:
        if isinstance(self._raw, InterruptibleStream):
            self._raw.interrupt()

    def close(self) -> None:
        self._file.close()
        self._raw.close()
