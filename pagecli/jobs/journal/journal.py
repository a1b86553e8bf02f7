"""A journal in use: what it held when it was opened, and what is appended to it; a thread of its own syncs it to the disk."""

import os
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

from pagecli.errors import InputError, UsageError
from pagecli.jobs.journal.record_format import Record, pack, read_record, scan
from pagecli.jobs.journal.row_codec import decode, encode, row_digest
from pagecli.jobs.rows.input_row import InputRow
from pagecli.jobs.rows.output_row import OutputRow
from pagecli.jobs.storage.atomic_file import not_writable
from pagecli.jobs.storage.job_directory import JobDirectory

ROWS = "rows"
SYNC_SECONDS = 1.0


class FinishedRows:
    """The rows that a journal held when it was opened, found by their index: 8 bytes of memory a row."""

    def __init__(self, fd: int, key: bytes) -> None:
        self._fd = fd
        self._key = key
        self._places = array("q")  # by index: where the record begins, plus 1; 0 where there is none
        self.num_rows = 0  # input rows
        self.end = 0  # of the last whole record
        for record in scan(fd, key):
            self._note(record)

    def _note(self, record: Record) -> None:
        self.end = record.end
        missing = record.index + 1 - len(self._places)
        if missing > 0:
            self._places.frombytes(bytes(8 * max(missing, min(len(self._places), 1 << 20))))
        if not self._places[record.index]:
            self._places[record.index] = record.offset + 1
            self.num_rows += 1

    @property
    def num_indexes(self) -> int:
        """The number of the last input row among them, from 1."""
        return next((index + 1 for index in range(len(self._places) - 1, -1, -1) if self._places[index]), 0)

    def get(self, index: int) -> Record | None:
        """The record of input row `index`; None where there is none, or it can no longer be read."""
        if index >= len(self._places) or not self._places[index]:
            return None
        record = read_record(self._fd, self._key, self._places[index] - 1)
        return record if record is not None and record.index == index else None


class Journal:
    """Opens `rows` in the job's directory, dropping what is cut short at its end. Raises OSError, UsageError.

    `append` and `commit` belong to the thread that runs the job; `take` to the one that reads the input.
    """

    def __init__(
        self,
        directory: JobDirectory,
        key: bytes,
        each_second: Callable[[], None] = lambda: None,
        with_token_ids: bool = True,
    ) -> None:
        self._path = directory.path / ROWS
        self._output = directory.output
        self._key = key
        self._each_second = each_second
        self._with_token_ids = with_token_ids
        self._fd = directory.open(ROWS, os.O_RDWR | os.O_CREAT)
        self.finished = FinishedRows(self._fd, key)
        self._end = self.finished.end
        os.ftruncate(self._fd, self._end)
        directory.sync()  # the file's name, which syncing the file alone need not keep
        self._pending: list[bytes] = []
        self._num_written = self.num_safe_rows = self.finished.num_rows  # input rows: in the file; synced
        self._failure: OSError | InputError | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sync_by_the_clock, name="pagecli-journal", daemon=True)
        self._thread.start()

    @property
    def is_empty(self) -> bool:
        return self._end == 0

    @property
    def num_rows(self) -> int:
        """Input rows it holds."""
        return self._num_written

    def take(self, row: InputRow) -> list[OutputRow] | None:
        """What was made of `row` before, or None. Raises UsageError if it was another row that stood there."""
        record = self.finished.get(row.index)
        if record is None:
            return None
        if record.input_digest != row_digest(row):
            raise UsageError(
                f"{row.place} is not the row that was finished before: the input has changed since",
                f"run it on the input it was begun with, or begin anew with --restart ({self._output})",
            )
        return decode(record.payload, row)

    def append(self, outputs: list[OutputRow]) -> None:
        """All output rows of one input row; they are in the file after the next commit."""
        row = outputs[0].row
        num_errors = sum(output.error is not None for output in outputs)
        self._pending.append(
            pack(self._key, row.index, len(outputs), num_errors, row_digest(row), encode(outputs, self._with_token_ids))
        )

    def commit(self) -> None:
        """Writes what was appended: from here on a kill loses nothing of it, and from the next sync on a power failure.

        Raises InputError; what is in the file until then stays good.
        """
        if self._failure is not None:
            raise self._not_writable(self._failure) from self._failure
        if not self._pending:
            return
        data, num_rows = b"".join(self._pending), len(self._pending)
        self._pending.clear()
        try:
            while data:
                written = os.pwrite(self._fd, data, self._end)
                self._end += written
                data = data[written:]
        except OSError as error:
            self._failure = error
            raise self._not_writable(error) from error
        self._num_written += num_rows

    def sync(self) -> None:
        """Puts on the disk what was committed. Raises InputError."""
        try:
            self._sync()
        except OSError as error:
            self._failure = error
            raise self._not_writable(error) from error

    def close(self) -> None:
        """Ends the thread; what was committed is left to the system unless it was synced."""
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join()
            os.close(self._fd)

    def _sync(self) -> None:
        num_rows = self._num_written
        if num_rows > self.num_safe_rows:
            _flush_to_disk(self._fd)
            self.num_safe_rows = num_rows

    def _sync_by_the_clock(self) -> None:
        while not self._ending.wait(SYNC_SECONDS):
            try:
                self._each_second()
                self._sync()
            except (OSError, InputError) as error:  # raised by the next commit
                self._failure = error
                return

    def _not_writable(self, error: OSError | InputError) -> Exception:
        if isinstance(error, InputError):
            return error
        problem = not_writable(self._output, error)
        if self._num_written and isinstance(problem, InputError):
            again = f"the same command goes on from {self._num_written} finished rows"
            return InputError(
                f"{self._journal_name()}: {problem.message.split(': ', 1)[-1]}", f"{problem.hint or again}; {again}"
            )
        return problem

    def _journal_name(self) -> Path:
        return self._path


# Linux: without the times of the file, which nobody needs; macOS has only the other.
_flush_to_disk: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
