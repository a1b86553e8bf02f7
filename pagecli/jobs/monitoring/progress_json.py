"""The event stream of --progress-json: one JSON object a line, to a file or a descriptor that another program reads.

Never waits for its reader. `start`, `loaded` and `end` are kept until there is room; any other event that finds none is
dropped, and `end` says how many were. Events, each with `event` and `time` (UTC):

    start       schema_version, version, pid, host, input, output, model
    loaded      load_seconds, dtype, cpu_isa, num_threads, kv_blocks_total, kv_block_size
    progress    at most one a second: num_rows (of the input, finished), num_rows_total (null: unknown), total_is_exact,
                num_taken_over (of num_rows, from earlier runs), num_error_rows, num_running, num_waiting, kv_usage,
                output_tokens, output_tokens_per_second, rows_per_second, eta_seconds
    row_errors  num_error_rows so far, when it has grown; at most one a second
    checkpoint  num_rows that are safe on the disk
    end         exit_code, error, num_rows, num_error_rows, finish_reasons, prompt_tokens, output_tokens, generate_seconds,
                interrupted_by_signal, num_dropped_events
"""

import contextlib
import errno
import json
import os
import select
import stat
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pagecli
from pagecli.core.file_targets import (
    check_replaceable,
    descriptor_of,
    duplicate,
    is_stream_target,
    on_this_machine,
    resolved_target,
)
from pagecli.errors import InputError
from pagecli.jobs.monitoring.monitor import Event, JobSnapshot, utc_text
from pagecli.jobs.storage.redaction import redact_values

SCHEMA_VERSION = 1
EVENT_SECONDS = 1.0
LAST_WAIT_SECONDS = 1.0  # for a slow reader to take the end of the stream
MAX_EVENT_BYTES = select.PIPE_BUF  # what a pipe that has room takes whole, without waiting
MAX_TEXT = 150  # characters that are left of a text in an event that would be longer
START = ("pid", "host", "input", "output", "model")
LOADED = ("load_seconds", "dtype", "cpu_isa", "num_threads", "kv_blocks_total", "kv_block_size")
PROGRESS = (
    *("num_rows", "num_rows_total", "total_is_exact", "num_taken_over", "num_error_rows", "num_running", "num_waiting"),
    *("kv_usage", "output_tokens", "output_tokens_per_second", "rows_per_second", "eta_seconds"),
)
END = ("finish_reasons", "prompt_tokens", "output_tokens", "generate_seconds", "interrupted_by_signal")


class EventStream:
    """Lines to a descriptor, which it owns and closes; a closed reader is no error."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._kept: deque[bytes] = deque()
        self._is_open = True
        self.num_dropped = 0

    def put(self, event: Mapping[str, Any], keep: bool) -> None:
        """Writes `event` if there is room now; without, it is kept for later or dropped. Raises OSError."""
        line = _encoded(event)
        self._flush()
        if not self._kept and self._write(line):
            return
        if keep and self._is_open:
            self._kept.append(line)
        else:
            self.num_dropped += 1

    def close(self, wait_seconds: float = LAST_WAIT_SECONDS) -> None:
        """Waits a little for room for what is kept."""
        deadline = time.monotonic() + wait_seconds
        try:
            self._flush()
            while self._kept and self._is_open and (left := deadline - time.monotonic()) > 0:
                self._poll.poll(left * 1000)
                self._flush()
        finally:
            self._is_open = False
            with contextlib.suppress(OSError):
                os.close(self._fd)

    def _flush(self) -> None:
        while self._kept and self._write(self._kept[0]):
            self._kept.popleft()

    def _write(self, line: bytes) -> bool:
        """False if there is no room, or no reader."""
        if not self._is_open:
            return False
        ready = self._poll.poll(0)
        if not ready or not ready[0][1] & select.POLLOUT:
            return False
        try:
            os.write(self._fd, line)  # whole: a pipe with room takes PIPE_BUF bytes, and a file everything
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self._is_open = False
            self._kept.clear()
            return False
        return True


def open_event_stream(target: str) -> EventStream:
    """`target` is the number of an open descriptor, or a file to append to. Raises UsageError, InputError."""
    number = int(target) if target.isdecimal() else descriptor_of(target)
    return EventStream(_appended_file(target) if number is None else duplicate(number, f"--progress-json {target}"))


def _appended_file(path: str) -> int:
    if not is_stream_target(path):
        path = str(resolved_target(on_this_machine(path)))
        check_replaceable(Path(path))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise InputError(f"{path}: no process reads this pipe", "start its reader first") from error
        raise InputError(f"{path} cannot be written: {error.strerror}", "name a file you may create or append to") from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.set_blocking(fd, True)
    return fd


class ProgressEvents:
    """The listener that writes the stream."""

    interval = EVENT_SECONDS

    def __init__(self, target: str) -> None:
        self.name = f"--progress-json {target}"
        self._stream = open_event_stream(target)
        self._num_error_rows = 0

    def on_event(self, event: Event, job: JobSnapshot) -> None:
        if event == "start":
            self._put("start", {"schema_version": SCHEMA_VERSION, "version": pagecli.__version__, **job.pick(*START)})
        elif event == "loaded":
            self._put("loaded", {name: job.engine.get(name) for name in LOADED})
        elif event == "progress":
            if job.num_error_rows > self._num_error_rows:
                self._num_error_rows = job.num_error_rows
                self._put("row_errors", job.pick("num_error_rows"), keep=False)
            self._put("progress", job.pick(*PROGRESS), keep=False)
        elif event == "checkpoint":
            self._put("checkpoint", {"num_rows": job.checkpoint_rows}, keep=False)
        elif event == "end":
            rows = job.pick("num_rows", "num_error_rows") if job.stats else {"num_rows": None, "num_error_rows": None}
            fields = rows | {name: job.stats.get(name) for name in END}
            self._put("end", {**job.pick("exit_code", "error"), **fields, "num_dropped_events": self._stream.num_dropped})

    def close(self) -> None:
        self._stream.close()

    def _put(self, event: str, fields: Mapping[str, Any], keep: bool = True) -> None:
        self._stream.put({"event": event, "time": utc_text(time.time()), **redact_values(fields)}, keep)


def _encoded(event: Mapping[str, Any]) -> bytes:
    """The line; long texts (paths, messages) are cut where a pipe would not take it whole."""
    line = _json_line(event)
    if len(line) <= MAX_EVENT_BYTES:
        return line
    return _json_line({name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in event.items()})


def _json_line(event: Mapping[str, Any]) -> bytes:
    return (json.dumps(event, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")
