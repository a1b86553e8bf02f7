"""stdout is for rows only: while a job runs, whatever else writes to file descriptor 1 ends up on stderr."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from pagecli.errors import InputError


@contextmanager
def reserved_stdout() -> Iterator[int]:
    """Yields a descriptor of the real stdout; descriptor 1 itself, which libraries know, leads to stderr inside."""
    sys.stdout.flush()
    try:
        rows_fd = os.dup(1)
    except OSError as error:
        raise InputError("standard output is closed", "run it with standard output open, as in > /dev/null") from error
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield rows_fd
    finally:
        sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)  # what C code has printed but not yet written
        os.dup2(rows_fd, 1)
        os.close(rows_fd)
