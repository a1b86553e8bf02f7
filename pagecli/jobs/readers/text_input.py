"""An input of lines, whatever is in them: opened, decompressed, read line by line, and how far reading has come."""

import zlib

import pyarrow as pa

from pagecli.errors import InputError
from pagecli.jobs.rows.input_row import RowEstimate
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.byte_streams import Content, InterruptibleStream, is_stream, open_raw, size_of
from pagecli.jobs.storage.file_version import FileVersion

UTF8_BOM = b"\xef\xbb\xbf"
START_BYTES = 256
COMPRESSED_SUFFIXES = (".gz", ".zst")
# First bytes of files that are not what their name says: (bytes, what the file is, hint).
OTHER_FORMATS = (
    (b"PAR1", "a Parquet file", "rename it to end in .parquet"),
    (b"\x1f\x8b", "gzip-compressed", "rename it to end in .gz"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "rename it to end in .zst"),
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"),
)


class TextInput:
    """Opens at once, so that a missing or mislabelled file is found before anything slow. Raises InputError.

    `kind` is what messages call the format. `start` has the first bytes of a file, and is empty of a pipe.
    """

    def __init__(self, path: str, kind: str) -> None:
        self.name = "standard input" if path == "-" else remote_files.shown(path)
        self.line_number = 0  # of the line read last, from 1
        self.start = b""
        self._parsed_bytes = 0  # of the lines read so far
        self._header_bytes = 0  # of them, before the first row
        self._ended = False  # readline has come to the end
        self._path = remote_files.local(path)
        self._raw = open_raw(path)
        try:
            self._size = None if is_stream(path) else size_of(self._raw)
            is_local_file = self._size is not None and not remote_files.is_remote(path)
            self._version = FileVersion.of(self._raw.fileno()) if is_local_file else None
            if self._size is not None:
                self.start = self._raw.read(START_BYTES) or b""
                self._raw.seek(0)
                if not path.lower().endswith(COMPRESSED_SUFFIXES):
                    self._check_format(kind)
            self._content = Content(self._raw, path)
            self._file = self._content.file
        except BaseException:
            self._raw.close()
            raise

    def _check_format(self, kind: str) -> None:
        for magic, what, hint in OTHER_FORMATS:
            if self.start.startswith(magic):
                raise InputError(f"{self.name} is {what}, not {kind}", hint)

    def readline(self) -> bytes:
        """The next line with its line break, the byte order mark taken off; empty at the end. Raises InputError."""
        try:
            line = self._file.readline()
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise InputError(
                f"{self.name} cannot be read after line {self.line_number}: {error}",
                "the file may be cut short or damaged; check it with gzip -t or zstd -t",
            ) from error
        self._ended = not line
        if line:
            self.line_number += 1
            self._parsed_bytes += len(line)
        return line.removeprefix(UTF8_BOM) if self.line_number == 1 else line

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
