"""stdout is for rows only: while a job runs, whatever else writes to file descriptor 1 ends up on stderr."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

NO_STDOUT = -1  # the program was started with standard output closed


@contextmanager
def reserved_stdout() -> Iterator[int]:
    """Yields a descriptor of the real stdout; descriptor 1 itself, which libraries know, leads to stderr inside."""
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
