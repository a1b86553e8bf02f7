"""JSON Lines output: to a file, plain or compressed, or to a stream row by row."""

import io
import os
import stat
from pathlib import Path
from typing import Any, Protocol

from pagecli.core.file_targets import wait_for_room
from pagecli.errors import InputError
from pagecli.jobs.rows.row import OutputRow
from pagecli.jobs.storage.atomic_file import create_temporary, not_writable, partial_path, publish, remove

SUFFIXES = {".jsonl": None, ".ndjson": None, ".jsonl.gz": "gzip", ".jsonl.zst": "zstd"}


class LineEncoder(Protocol):
    """Makes lines of output rows."""

    def __call__(self, row: OutputRow) -> bytes:
        """A line, or nothing yet."""
        ...

    def end(self, is_complete: bool) -> bytes:
        """After the last row: what is still to be written; not `is_complete`: rows of the job are missing."""
        ...


class LineRowWriter:
    """Writes rows as lines into a hidden file that gets its name in finish(). Raises InputError when the disk refuses."""

    lines_are_rows = True  # what reaches to the end of a line is whole rows

    def __init__(self, path: Path, suffix: str, codec: str | None, overwrite: bool, encode: "LineEncoder") -> None:
        self._path = path
        self._suffix = suffix
        self._overwrite = overwrite
        self._encode = encode
        self._temporary, self._disk = create_temporary(path)
        self._codec = codec
        self._file: Any = self._disk
        if codec:
            import pyarrow as pa

            self._file = pa.CompressedOutputStream(self._disk, codec)
        self._good_bytes = 0  # end of the last complete row in a plain file
        self.num_rows = 0

    def write(self, row: OutputRow) -> None:
        self._write(self._encode(row))
        self.num_rows += 1

    def _write(self, line: bytes) -> None:
        try:
            if line:  # at the end of a file that has been closed there is none
                self._file.write(line)
        except OSError as error:
            raise not_writable(self._path, error) from error
        self._good_bytes += len(line)

    def finish(self) -> None:
        self._write(self._encode.end(is_complete=True))
        self._close()
        publish(self._temporary, self._path, self._overwrite)

    def keep_partial(self) -> Path | None:
        """Keeps the rows written so far under a name of their own, a valid file; None if there are none."""
        if not self.num_rows:
            self.discard()
            return None
        try:
            self._write(self._encode.end(is_complete=False))
            self._close()
        except InputError:
            if self._codec is not None or not self.lines_are_rows:  # cut short, a compressed stream is no valid file
                self.discard()
                raise
            self._cut_to_whole_rows()
        path = partial_path(self._path, self._suffix)
        publish(self._temporary, path, overwrite=False)
        return path

    def _cut_to_whole_rows(self) -> None:
        """After a failed write: what reached the disk, up to its last line break."""
        with open(self._temporary, "r+b") as file:
            end = min(file.seek(0, io.SEEK_END), self._good_bytes)
            while end > 0:
                start = max(0, end - (1 << 16))
                file.seek(start)
                cut = file.read(end - start).rfind(b"\n")
                if cut >= 0:
                    end = start + cut + 1
                    break
                end = start
            file.truncate(end)

    def discard(self) -> None:
        remove(self._temporary)
        try:
            self._file.close()
            self._disk.close()
        except OSError:  # nothing of it is kept
            pass

    def _close(self) -> None:
        try:
            self._file.close()
            if not self._disk.closed:
                self._disk.close()
        except OSError as error:
            raise not_writable(self._path, error) from error


class StreamRowWriter:
    """Rows to a pipe, device or terminal, each at once; to a redirected file, in larger pieces. Raises BrokenPipeError.

    `name` is what messages call it; `owned`: the descriptor is closed at the end.
    """

    def __init__(self, fd: int, encode: "LineEncoder", name: str, owned: bool) -> None:
        self._fd = fd
        self._name = name
        self._owned = owned
        self._piece_bytes = 1 << 16 if stat.S_ISREG(os.fstat(fd).st_mode) else 0
        self._pending = bytearray()
        self._encode = encode
        self.num_rows = 0

    def write(self, row: OutputRow) -> None:
        self._pending += self._encode(row)
        self.num_rows += 1
        if len(self._pending) > self._piece_bytes:
            self._flush()

    def finish(self) -> None:
        self._pending += self._encode.end(is_complete=True)
        self._flush()
        self.discard()

    def keep_partial(self) -> Path | None:
        """Rows in a stream need no keeping."""
        self._pending += self._encode.end(is_complete=False)
        self._flush()
        return None

    def discard(self) -> None:
        self._pending.clear()
        if self._owned:
            self._owned = False
            os.close(self._fd)

    def _flush(self) -> None:
        try:
            while self._pending:
                try:
                    del self._pending[: os.write(self._fd, self._pending)]
                except BlockingIOError:  # a descriptor that is not ours may be non-blocking
                    wait_for_room(self._fd)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise not_writable(self._name, error) from error
