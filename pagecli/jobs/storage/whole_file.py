"""A file that is only ever written whole, once or repeatedly: statistics, metrics."""

import contextlib
import os
import stat
from pathlib import Path
from types import TracebackType

from pagecli.core.file_targets import is_stream_target, open_stream, resolved_target
from pagecli.errors import UsageError
from pagecli.jobs.storage.atomic_file import check_output, not_writable, write_atomically
from pagecli.jobs.storage.byte_streams import write_all


class WholeFile:
    """A regular file is replaced in one step at each `write`; a pipe or device is opened at once and gets each content in turn.

    Raises UsageError, InputError for a path that cannot be written, before there is anything to write.
    """

    def __init__(self, path: Path, takes_pipes: bool = True) -> None:
        self.path = path
        self._fd = -1
        if is_stream_target(path):
            self._fd = open_stream(path)
            if not takes_pipes and stat.S_ISFIFO(os.fstat(self._fd).st_mode):
                self.close()
                raise UsageError(f"{path} is a pipe", "name a file")
        else:
            self._path = resolved_target(path)
            check_output(self._path, overwrite=True)

    @property
    def is_stream(self) -> bool:
        return self._fd >= 0

    def write(self, content: bytes, durable: bool = True) -> None:
        """`durable`: forced to the disk before it gets its name. Raises InputError."""
        if self._fd < 0:
            write_atomically(self._path, content, durable)
            return
        try:
            write_all(self._fd, content)
        except OSError as error:
            raise not_writable(self.path, error) from error

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)

    def __enter__(self) -> "WholeFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
