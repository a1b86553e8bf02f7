"""SIGINT, SIGTERM and SIGHUP: before and after the run they end the program by an exception, during it they ask it to stop.

A second signal ends the program at once. A watchdog thread receives signals even while the main thread computes: if the
program has not ended some seconds after the first, the thread calls `on_deadline` and ends it. That takes the interpreter's
lock, which a long call may hold (a tokenizer on megabytes of text): then a C++ watchdog thread ends the program a little
later (csrc/bindings/signal_watchdog.cpp); finished rows are in the journal already. A SIGHUP that is
ignored, as nohup sets it, stays ignored.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ExtensionFileLoader
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 4.0  # from the first signal to the end of the process, whatever it is doing
HELD_SECONDS = 0.7  # more where the interpreter's lock is held, or saving takes so long
_LOADS_EXTENSION = (ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__)
_STAND_DOWN = b"\0"  # tells the C++ thread that the program ends by itself
_HELD = b"error: ended by a signal in the middle of an operation that cannot be interrupted\n"


class StopRequested(BaseException):
    """The program was asked to end, by signal `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopSignals:
    """The signals received so far; made by `stop_signals`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.was_raised = False  # as StopRequested; what ends the program after that is caused by it, whatever it has become
        self.numbers: tuple[int, ...] = ()
        # Called with the signal, by another thread, just before the process is ended; None: the thread does not end it.
        self.on_deadline: Callable[[int], None] | None = None
        # Called with the first signal by another thread, the moment it arrives.
        self.on_first: Callable[[int], None] | None = None
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
        for number in self.numbers:
            signal.signal(number, signal.SIG_DFL)
        if self._deferred:
            return
        self.was_raised = True
        loading = _extension_being_loaded(frame)
        if loading is None:
            raise StopRequested(signum)

        def raise_when_loaded(returning: FrameType, event: str, _: object) -> None:
            if returning is loading and event == "return":
                sys.setprofile(None)
                raise StopRequested(signum)

        sys.setprofile(raise_when_loaded)

    def request_in(self, error: BaseException) -> StopRequested | None:
        """The request to stop that `error` is, or that a library made an error of its own; None of any other error.

        An import that a signal interrupts may end as ImportError, and that as a line on a missing package.
        """
        if isinstance(error, StopRequested):
            return error
        return StopRequested(self.received) if self.was_raised and self.received is not None else None


def _extension_being_loaded(frame: FrameType | None) -> FrameType | None:
    """The outermost call that loads a module of C or C++, one of which may end the process where an exception meets it."""
    loading = None
    while frame is not None:
        if frame.f_code in _LOADS_EXTENSION:
            loading = frame
        frame = frame.f_back
    return loading


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Installs the handlers, and puts back the former ones at the end. Elsewhere than in the main thread: none.

    Raises StopRequested in place of an error that a signal caused.
    """
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    hung_up_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signals.numbers = tuple(number for number in SIGNALS if number != signal.SIGHUP or not hung_up_ignored)
    with _watched(signals):
        former = {number: signal.signal(number, signals.handle) for number in signals.numbers}
        try:
            yield signals
        except Exception as error:
            request = signals.request_in(error)
            if request is None:
                raise
            raise request from error
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


@contextmanager
def _watched(signals: StopSignals) -> Iterator[None]:
    """Runs a thread that receives every signal at once through the interpreter's wake-up descriptor."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    read_end = _behind_watchdog(read_end, signals)
    thread = threading.Thread(target=_watch, args=(read_end, write_end, signals), name="pagecli-signals", daemon=True)
    thread.start()
    former = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        os.close(write_end)  # ends both threads
        thread.join()
        os.close(read_end)


def _behind_watchdog(arriving: int, signals: StopSignals) -> int:
    """Where to read what the C++ thread passes on of the signals that arrive; it closes `arriving`."""
    try:
        from pagecli.jobs.run import _signal_watchdog  # type: ignore[attr-defined]
    except ImportError:  # a source tree whose modules were not built, for tests that need none
        return arriving
    read_end, heard = os.pipe()
    _signal_watchdog.start(arriving, heard, bytes(signals.numbers), GRACE_SECONDS + HELD_SECONDS, _HELD)
    return read_end


def _watch(read_end: int, write_end: int, signals: StopSignals) -> None:
    first, deadline = 0, None
    poll = select.poll()  # unlike select, of descriptors of any number
    poll.register(read_end, select.POLLIN)
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left):
            deadline = None
            if signals.on_deadline is not None:
                with suppress(Exception):
                    signals.on_deadline(first)
                os._exit(128 + first)
            with suppress(OSError):
                os.write(write_end, _STAND_DOWN)
            continue
        arrived = os.read(read_end, 64)
        if not arrived:
            return
        wanted = [number for number in arrived if number in signals.numbers]
        if first and wanted:  # the second one, while the main thread has not got round to the first
            os._exit(128 + wanted[0])
        if wanted:
            first, deadline = wanted[0], time.monotonic() + GRACE_SECONDS
            if signals.on_first is not None:
                with suppress(Exception):
                    signals.on_first(first)
            if len(wanted) > 1:
                os._exit(128 + wanted[1])
