"""SIGINT and SIGTERM: before and after the run they end the program by an exception, during it they ask it to stop.

A second signal ends the program at once.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(BaseException):
    """The program was asked to end, by signal `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopSignals:
    """What has been asked for so far; made by `stop_signals`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferred = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `received`, for a loop that looks at it between steps."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if not self._deferred:
            raise StopRequested(signum)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Installs the handlers, and puts back the former ones at the end. Elsewhere than in the main thread: none."""
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    former = {number: signal.signal(number, signals.handle) for number in SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
