"""The journal of finished rows, from which a job that was killed in any way resumes.

Design. A line holds the engine's output for an input row, not the row: on resuming, the input is read again and
the ordinary writer writes everything anew, rows that are in the journal without being computed. So every format of output can
be resumed, none of the writers knows of it, and what comes out is the same to the byte as without interruption. Rows cost two
writes, but the second one is only the text: the input's columns are never copied here.

It is a log of checked lines (storage/job_directory.py) of these kinds:

    job  {...}                                        which job it is (job_identity.py); again after each megabyte
    row  index num_rows num_error_rows digest [...]   of an input row: its index from 0, its output rows, how many of those are
                                                      errors, a digest of it, the output rows as JSON

appended after each step in one write and synced to the disk once a second by a thread. Of lines about one row the first counts,
of those about the job the last. How the job ends stands in a file of its own, which a resumed run removes.

The output rows of a line are a list with an object for each: its fields by their names in OutputRow, those with their default
left out. Floats come back to the bit, as Python writes the shortest text that reads as the same number.
"""

import dataclasses
import hashlib
import io
import json
import operator
import os
import threading
from array import array
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from pagecli.core.outputs import TokenLogprobs
from pagecli.errors import ErrorCode, InputError, UsageError
from pagecli.jobs.rows.row import InputRow, OutputRow, arrow_columns, json_default
from pagecli.jobs.storage.atomic_file import not_writable
from pagecli.jobs.storage.job_directory import (
    LOG,
    OUTCOME,
    JobDirectory,
    append,
    json_line,
    json_of,
    log_line,
    read_line,
    read_log,
)

_FIELDS = [field for field in dataclasses.fields(OutputRow) if field.name != "row"]
_NAMES, _DEFAULTS = [field.name for field in _FIELDS], [field.default for field in _FIELDS]
_get_fields = operator.attrgetter(*_NAMES)
# Made once: json.dumps makes an encoder for every call that is not a plain one, which takes longer than encoding a short row.
_encode_row = json.JSONEncoder(default=json_default).encode
_encode_outputs = json.JSONEncoder(separators=(",", ":")).encode


def row_digest(row: InputRow) -> bytes:
    """8 bytes that tell an input row from another: of all its columns, and of why it could not be read."""
    columns, of_batch = row.columns, arrow_columns(row.columns)
    if of_batch is None:
        return hashlib.blake2b(_encode_row([columns, row.error]).encode("ascii"), digest_size=8).digest()
    digest = hashlib.blake2b(f"{row.error}".encode("utf-8", "replace"), digest_size=8)
    from pagecli.jobs.rows.arrow_values import row_bytes

    for piece in row_bytes(of_batch.batch, of_batch.offset):
        digest.update(piece)
    return digest.digest()


def encode(outputs: list[OutputRow], with_token_ids: bool = True) -> bytes:
    """The payload; without token_ids where no column wants them."""
    return _encode_outputs([_as_dict(output, with_token_ids) for output in outputs]).encode("ascii")


def decode(payload: bytes, row: InputRow) -> list[OutputRow] | None:
    """The output rows of `row`; None if another version of pagecli wrote them in a format that this one does not know."""
    try:
        return [OutputRow(row, **_from_dict(values)) for values in json.loads(payload)]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _as_dict(output: OutputRow, with_token_ids: bool) -> dict[str, Any]:
    fields = zip(_NAMES, _get_fields(output), _DEFAULTS, strict=True)
    values = {name: value for name, value, default in fields if value is not default and value != default}
    if not with_token_ids:
        values.pop("token_ids", None)
    if output.logprobs is not None:
        values["logprobs"] = [(token.token_id, token.logprob, token.top) for token in output.logprobs]
    return values


def _from_dict(values: dict[str, Any]) -> dict[str, Any]:
    if "logprobs" in values:
        values["logprobs"] = [
            TokenLogprobs(token_id, logprob, tuple((other, value) for other, value in top))
            for token_id, logprob, top in values["logprobs"]
        ]
    if "error_code" in values:
        values["error_code"] = ErrorCode(values["error_code"])
    return values


JOB, ROW = b"job", b"row"
SYNC_SECONDS = 1.0
JOB_AGAIN_BYTES = 1 << 20
MAX_INDEX = 1 << 40


class JournalContents:
    """The content of a journal, read through once; rows are found by their index: 8 bytes of memory a row."""

    def __init__(self, directory: JobDirectory) -> None:
        self.job: dict[str, Any] | None = None  # None: no line about it is whole
        self.num_input_rows = self.num_rows = self.num_error_rows = 0
        self.num_indexes = 0  # the number of the last input row among them, from 1
        self.last_row_at: float | None = None  # seconds since 1970: when the log last grew
        self._offsets = array("q")  # by index: where the line begins, plus 1; 0 where there is none
        try:
            self._file: BinaryIO = os.fdopen(directory.open(LOG, os.O_RDONLY), "rb")
        except FileNotFoundError:
            self._file = io.BytesIO()
            return
        for offset, kind, rest in read_log(self._file):
            if kind == ROW:
                self._add(offset, rest)
            elif kind == JOB:
                self.job = json_of(rest)
        self.last_row_at = os.fstat(self._file.fileno()).st_mtime if self.num_input_rows else None

    def _add(self, offset: int, rest: bytes) -> None:
        try:
            *numbers, _, _ = rest.split(b" ", 4)
            number, num_rows, num_errors = map(int, numbers)
        except ValueError:
            return
        missing = number + 1 - len(self._offsets)
        if not 0 <= number < MAX_INDEX:
            return
        if missing > 0:
            self._offsets.frombytes(bytes(8 * max(missing, min(len(self._offsets), 1 << 20))))
        if not self._offsets[number]:
            self._offsets[number] = offset + 1
            self.num_indexes = max(self.num_indexes, number + 1)
            self.num_input_rows += 1
            self.num_rows += num_rows
            self.num_error_rows += num_errors

    def get(self, index: int) -> tuple[bytes, bytes] | None:
        """(digest, output rows) of input row `index`; None where there is none, or it can no longer be read."""
        if index >= len(self._offsets) or not self._offsets[index]:
            return None
        line = read_line(self._file, self._offsets[index] - 1)
        if line is None or line[0] != ROW or not line[1].startswith(b"%d " % index):
            return None
        _, _, _, digest, payload = line[1].split(b" ", 4)
        return digest, payload

    def close(self) -> None:
        self._file.close()


class Journal:
    """A journal that is appended to. Raises OSError, UsageError when it is opened.

    `contents`: what it holds; None of a new one.
    `append` and `commit` belong to the thread that runs the job; `take` to the one that reads the input.
    """

    def __init__(
        self,
        directory: JobDirectory,
        job: Mapping[str, Any],
        contents: JournalContents | None,
        each_second: Callable[[], None] = lambda: None,
        with_token_ids: bool = True,
    ) -> None:
        self.finished = contents
        self._directory = directory
        self._each_second = each_second
        self._with_token_ids = with_token_ids
        self._fd = directory.open(LOG, os.O_RDWR | os.O_CREAT)
        self._bytes_since_job = 0
        num_rows = 0 if contents is None else contents.num_input_rows
        self._num_written = self.num_safe_rows = num_rows  # input rows: in the file; synced
        self._pending: list[bytes] = []
        self._failure: OSError | InputError | None = None
        self._job_line, self._job_is_due = json_line(JOB, job), False
        try:
            directory.remove(OUTCOME)  # of a run that came close to the end, but not to it
            append(self._fd, b"\n" + self._job_line)
            _flush_to_disk(self._fd)
        except OSError:
            os.close(self._fd)
            raise
        directory.sync()  # the file's name, which syncing the file alone need not keep
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sync_by_the_clock, name="pagecli-journal", daemon=True)
        self._thread.start()

    @property
    def num_rows(self) -> int:
        """Input rows it holds."""
        return self._num_written

    def set_job(self, job: Mapping[str, Any]) -> None:
        """Set the job's description: written by the next commit, and again once a megabyte, so that damage cannot lose it."""
        self._job_line = json_line(JOB, job)
        self._job_is_due = True

    def take(self, row: InputRow) -> list[OutputRow] | None:
        """The output rows of `row` from an earlier run, or None. Raises UsageError if its index had another row."""
        record = None if self.finished is None else self.finished.get(row.index)
        if record is None:
            return None
        if record[0] != _hex_digest(row):
            raise UsageError(
                f"{row.location} is not the row that was finished before: the input has changed since",
                f"run it on the input it was begun with, or begin anew with --restart ({self._directory.output})",
            )
        return decode(record[1], row)

    def append(self, outputs: list[OutputRow]) -> None:
        """All output rows of one input row; they are in the file after the next commit."""
        row = outputs[0].row
        numbers = (row.index, len(outputs), sum(output.error is not None for output in outputs))
        payload = encode(outputs, self._with_token_ids)
        self._pending.append(log_line(ROW, b"%d %d %d %b %b" % (*numbers, _hex_digest(row), payload)))

    def commit(self) -> None:
        """Writes what was appended: from here on a kill loses nothing of it, and from the next sync on a power failure.

        Raises InputError; what is in the file until then stays good.
        """
        if self._failure is not None:
            raise self._not_writable(self._failure) from self._failure
        if not self._pending and not self._job_is_due:
            return
        data, num_rows = b"".join(self._pending), len(self._pending)
        self._pending.clear()
        try:
            self._write_job_if_due()
            append(self._fd, data)
        except OSError as error:
            self._failure = error
            raise self._not_writable(error) from error
        self._num_written += num_rows
        self._bytes_since_job += len(data)

    def _write_job_if_due(self) -> None:
        if self._job_is_due or self._bytes_since_job > JOB_AGAIN_BYTES:
            self._job_is_due, self._bytes_since_job = False, 0
            append(self._fd, self._job_line)

    def sync(self) -> None:
        """Puts on the disk what was committed. Raises InputError."""
        try:
            num_rows = self._num_written
            _flush_to_disk(self._fd)
            self.num_safe_rows = num_rows
        except OSError as error:
            self._failure = error
            raise self._not_writable(error) from error

    def close(self) -> None:
        """Ends the thread; committed lines that were not synced are left to the operating system."""
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join()
            os.close(self._fd)

    def _sync_by_the_clock(self) -> None:
        while not self._ending.wait(SYNC_SECONDS):
            try:
                self._check_is_there()
                self._each_second()
                if self._num_written > self.num_safe_rows:
                    self.sync()
            except (OSError, InputError) as error:  # raised by the next commit
                self._failure = self._failure or error
                return

    def _check_is_there(self) -> None:
        """Raises InputError if the journal file was removed, moved or replaced: no run would find lines written from now on."""
        if self._directory.is_current() and self._directory.has(LOG, self._fd):
            return
        path = self._directory.path
        if self._directory.is_removed() or not os.fstat(self._fd).st_nlink:
            hint = "leave the journal's directory alone, and run the same command again"
            raise InputError(f"{path} was removed while the job ran, and with it the finished rows", hint)
        message = f"{path} was moved away while the job ran, and with it the finished rows"
        raise InputError(message, "put it back where it was, then run the same command again")

    def _not_writable(self, error: OSError | InputError) -> Exception:
        if isinstance(error, InputError):
            return error
        problem = not_writable(self._directory.output, error)
        if self._num_written and isinstance(problem, InputError):
            again = f"the same command resumes from {self._num_written} finished rows"
            message = problem.message.split(": ", 1)[-1]
            return InputError(f"{self._directory.path / LOG}: {message}", f"{problem.hint or again}; {again}")
        return problem


def _hex_digest(row: InputRow) -> bytes:
    return row_digest(row).hex().encode("ascii")


# Linux: without the file's times, which are not needed; macOS has only the other.
_flush_to_disk: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
