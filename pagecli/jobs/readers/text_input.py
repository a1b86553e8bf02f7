"""An input of lines, whatever is in them: opened, decompressed, read line by line, and how far reading has come."""

import zlib

from pagecli.core import file_targets
from pagecli.errors import InputError
from pagecli.jobs.rows.row import RowEstimate
from pagecli.jobs.storage.byte_streams import Content, FileVersion, InterruptibleStream, is_stream, open_raw, size_of

UTF8_BOM = b"\xef\xbb\xbf"
START_BYTES = 256
COMPRESSED_SUFFIXES = (".gz", ".zst")
MAX_ROW_BYTES = 64 << 20
SKIPPED_BYTES = 1 << 20  # held at a time of a line that is too long
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
    """Opens at once, so that a missing or mislabelled file is found before anything slow. Raises InputError.

    `kind` is what messages call the format. `start` has the first bytes of a file, and is empty of a pipe.
    """

    def __init__(self, path: str, kind: str, max_row_bytes: int = MAX_ROW_BYTES) -> None:
        self.name = "standard input" if path == "-" else file_targets.shown(path)
        self.max_row_bytes = max_row_bytes
        self.line_number = 0  # of the line read last, from 1
        self._kind = kind
        self.start = b""
        self._parsed_bytes = 0  # of the lines read so far
        self._header_bytes = 0  # of them, before the first row
        self._ended = False  # readline has come to the end
        self._path = file_targets.local(path)
        self._raw = open_raw(path)
        try:
            self._size = None if is_stream(path) else size_of(self._raw)
            is_local_file = self._size is not None and not file_targets.is_remote(path)
            self._version = FileVersion.of(self._raw.fileno()) if is_local_file else None
            if self._size is not None:
                self.start = self._raw.read(START_BYTES) or b""
                self._raw.seek(0)
                if not path.lower().endswith(COMPRESSED_SUFFIXES):
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
            while is_too_long and line and not line.endswith(b"\n"):
                line = self._file.readline(SKIPPED_BYTES)
                num_bytes += len(line)
                num_quotes += line.count(b'"')
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{self.name} cannot be read after line {self.line_number}: {error}",
                "the file may be cut short or damaged; check it with gzip -t or zstd -t",
            ) from error
        self._ended = not num_bytes
        if num_bytes:
            self.line_number += 1
            self._parsed_bytes += num_bytes
        if is_too_long:
            raise LineTooLongError(num_bytes, self.max_row_bytes, num_quotes)
        if self._size is None and self.line_number == 1:
            self._check_format(line)
        return line.removeprefix(UTF8_BOM) if starts_row else line

    def end_header(self) -> None:
        """The lines read so far are no rows."""
        self._header_bytes = self._parsed_bytes

    def check_unchanged(self) -> None:
        """To be called after the last line. Raises InputError if the file is no longer what was opened, or ended early."""
        if self._version is not None:
            self._version.check(self._path)
        elif self._size is not None and self._ended and self._raw.tell() < self._size:
            read = f"{self._raw.tell():,} of {self._size:,} bytes"
            raise InputError(f"{self.name} ended early, after {read}", "run the same command again")

    def estimate(self, num_rows: int) -> RowEstimate | None:
        """How many rows there will be if all are as long as the first `num_rows`, those read so far; None of a pipe.

        Goes by the bytes of the lines that were parsed, not by those that buffers and decompression have read ahead.
        """
        ratio, row_bytes = self._content.bytes_ratio, self._parsed_bytes - self._header_bytes
        if self._size is None or ratio is None or not num_rows or not row_bytes:
            return None
        content_bytes = self._size * ratio - self._header_bytes
        return RowEstimate(max(num_rows, round(num_rows * content_bytes / row_bytes)), exact=False)

    def interrupt(self) -> None:
        if isinstance(self._raw, InterruptibleStream):
            self._raw.interrupt()

    def close(self) -> None:
        self._file.close()
        self._raw.close()


class TextRows:
    """What sources of rows out of a TextInput share: their reader counts `_num_rows`, and sets `_ended` after the last."""

    def __init__(self, text: TextInput, limit: int | None) -> None:
        self._input = text
        self.name = text.name
        self._limit = limit
        self._num_rows = 0
        self._ended = False

    def estimate(self) -> RowEstimate | None:
        if self._ended:
            return RowEstimate(self._num_rows, exact=True)
        estimate = self._input.estimate(self._num_rows)
        if estimate is None or self._limit is None:
            return estimate
        return RowEstimate(min(estimate.num_rows, self._limit), exact=False)

    def check_unchanged(self) -> None:
        self._input.check_unchanged()

    def interrupt(self) -> None:
        self._input.interrupt()

    def close(self) -> None:
        self._input.close()
