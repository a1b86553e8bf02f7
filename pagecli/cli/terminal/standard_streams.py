"""The standard streams: closed ones, ones that cannot take any more, stdout kept for rows, libraries kept quiet.

While a job runs, stdout is for rows only: whatever else writes to file descriptor 1 ends up on stderr.
"""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from pagecli.errors import InputError

NO_STDOUT = -1  # the program was started with standard output closed


class ClosedStdout(io.TextIOBase):
    """Stands for a standard output that was closed when the program started: what needs it fails in one line."""

    def write(self, text: str) -> NoReturn:
        raise stdout_is_closed()

    def isatty(self) -> bool:
        return False


class _LenientFile(io.FileIO):
    """A descriptor whose refusals are left unsaid: a full disk behind stderr must not turn success into failure."""

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left:
                count = super().write(left)
                if count is None:  # it does not wait for room by itself
                    select.select([], [self.fileno()], [])
                    continue
                left = left[count:]
        except (OSError, ValueError):
            pass
        return size


def open_standard_streams() -> None:
    """To be called once, at the start. Descriptors 0 to 2 that are closed lead to /dev/null from now on, so that no file that
    is opened later gets their numbers; what is said goes to a stderr that never fails."""
    closed = [fd for fd in (0, 1, 2) if not _is_open(fd)]
    for fd in closed:
        nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if nowhere != fd:
            os.dup2(nowhere, fd)
            os.close(nowhere)
        os.set_inheritable(fd, True)
    if 1 in closed:
        sys.stdout = ClosedStdout()
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    lenient = io.BufferedWriter(_LenientFile(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(lenient, encoding, "backslashreplace", line_buffering=True)


def stdout_is_closed() -> InputError:
    return InputError("standard output is closed", "run it with standard output open, or name a file")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextmanager
def reserved_stdout() -> Iterator[int]:
    """Yields a descriptor of the real stdout, or NO_STDOUT; descriptor 1 itself leads to stderr inside."""
    if isinstance(sys.stdout, ClosedStdout):
        with redirect_stdout(sys.stderr):
            yield NO_STDOUT
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        rows_fd = os.dup(1)
    except OSError:
        yield NO_STDOUT
        return
    try:
        _point_to_stderr(1)
        with redirect_stdout(sys.stderr):
            yield rows_fd
    finally:
        import ctypes

        ctypes.CDLL(None).fflush(None)  # what C code has printed but not yet written
        os.dup2(rows_fd, 1)
        os.close(rows_fd)


def _point_to_stderr(fd: int) -> None:
    try:
        os.dup2(2, fd)
    except OSError:  # stderr is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd)
        os.close(nowhere)


def quieten(verbose: bool, show_downloads: bool, has_log: bool = False) -> None:
    """Sets what the libraries read at import; a variable the user has set stays. `verbose` leaves their warnings on.

    With a log, their warnings go there instead of nowhere.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one prompt at a time: nothing to share between threads
    if not show_downloads:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if verbose or has_log:
        return
    import logging
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
