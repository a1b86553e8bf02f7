"""Reads and tokenizes rows in a thread of its own, a bounded number of rows ahead of the engine."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType

from pagecli.jobs.input_row import InputRow, InputSource
from pagecli.jobs.records import PreparedRow

POLL_SECONDS = 0.1


class Feeder:
    """A context manager: its thread runs inside the `with` and has ended when the `with` is left, however it is left."""

    def __init__(self, source: InputSource, prepare: Callable[[InputRow], PreparedRow], max_rows: int) -> None:
        self._source = source
        self._prepare = prepare
        self._queue: queue.Queue[PreparedRow | BaseException | None] = queue.Queue(max_rows)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pagecli-reader", daemon=True)
        self.exhausted = False  # every row has been taken

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._source.interrupt()
        self._thread.join()
        self._source.close()

    def take(self, timeout: float) -> PreparedRow | None:
        """The next row; None if none is ready within `timeout` seconds or none is left. Raises what the reading raised."""
        if self.exhausted:
            return None
        try:
            item = self._queue.get(timeout=timeout) if timeout > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, PreparedRow):
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
            self._put(None)
        except BaseException as error:  # handed to the thread that takes rows, which raises it
            self._put(error)

    def _put(self, item: PreparedRow | BaseException | None) -> bool:
        """False if the feeder was stopped while it waited for room."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False
