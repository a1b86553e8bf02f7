"""Reads and tokenizes rows in a thread of its own, ahead of the engine by a bounded number of rows and bytes."""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from pagecli.jobs.rows.input_row import InputRow, InputSource
from pagecli.jobs.rows.row_preparer import PreparedRow

POLL_SECONDS = 0.1
MAX_BYTES = 64 << 20
TOKEN_BYTES = 36  # an int of Python and its place in a list


class Feeder:
    """A context manager: its thread runs inside the `with` and has ended when the `with` is left, however it is left.

    A row larger than `max_bytes` goes through alone.
    """

    def __init__(
        self, source: InputSource, prepare: Callable[[InputRow], PreparedRow], max_rows: int, max_bytes: int = MAX_BYTES
    ) -> None:
        self._source = source
        self._prepare = prepare
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._ready: deque[PreparedRow | BaseException | None] = deque()  # at its end what the reading raised, or None
        self._ready_bytes = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="pagecli-reader", daemon=True)
        self.exhausted = False  # every row has been taken

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._source.interrupt()
        self._thread.join()
        self._source.close()

    def take(self, timeout: float) -> PreparedRow | None:
        """The next row; None if none is ready within `timeout` seconds or none is left. Raises what the reading raised."""
        if self.exhausted:
            return None
        with self._changed:
            if not self._ready and not self._changed.wait_for(lambda: self._ready, timeout):
                return None
            item = self._ready.popleft()
            if isinstance(item, PreparedRow):
                self._ready_bytes -= prepared_bytes(item)
                self._changed.notify_all()
                return item
        self.exhausted = True
        if item is not None:
            raise item
        return None

    def _run(self) -> None:
        try:
            for row in self._source:
                if not self._put(self._prepare(row)):
                    return
            self._source.check_unchanged()
            self._put(None)
        except BaseException as error:  # handed to the thread that takes rows, which raises it
            self._put(error)

    def _put(self, item: PreparedRow | BaseException | None) -> bool:
        """False if the feeder was stopped while it waited for room."""
        num_bytes = prepared_bytes(item) if isinstance(item, PreparedRow) else 0
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._has_room(num_bytes))
            if self._stopped:
                return False
            self._ready.append(item)
            self._ready_bytes += num_bytes
            self._changed.notify_all()
        return True

    def _has_room(self, num_bytes: int) -> bool:
        return not self._ready or (len(self._ready) < self._max_rows and self._ready_bytes + num_bytes <= self._max_bytes)


def prepared_bytes(prepared: PreparedRow) -> int:
    """About what the row takes in memory."""
    return prepared.row.num_bytes + TOKEN_BYTES * len(prepared.prompt_token_ids)
