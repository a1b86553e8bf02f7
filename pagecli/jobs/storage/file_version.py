"""The version of a file, by which a change or exchange is noticed: device, inode, size and modification time."""

import os
from dataclasses import dataclass

from pagecli.errors import InputError
from pagecli.jobs.storage import remote_files


@dataclass(frozen=True, slots=True)
class FileVersion:
    """A local file as it was at one moment."""

    device: int
    inode: int
    size: int  # bytes
    mtime_ns: int

    @classmethod
    def of(cls, file: str | int) -> "FileVersion":
        """Of a path or an open descriptor. Raises OSError."""
        found = os.stat(file)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    @classmethod
    def of_input(cls, path: str) -> "FileVersion | None":
        """None of a URL, and of a file that is not there, which opening it says better."""
        try:
            return None if remote_files.is_remote(path) else cls.of(remote_files.local(path))
        except OSError:
            return None

    def check(self, path: str) -> None:
        """Raises InputError if what `path` names now is not this version."""
        try:
            now = FileVersion.of(path)
        except OSError as error:
            raise _changed(path, f"is gone ({error.strerror})") from error
        if now == self:
            return
        if (now.device, now.inode) != (self.device, self.inode):
            raise _changed(path, "was replaced by another file")
        if now.size != self.size:
            verb = "truncated" if now.size < self.size else "added to"
            raise _changed(path, f"was {verb} ({self.size:,} bytes, now {now.size:,})")
        raise _changed(path, "was written to")


def _changed(path: str, what: str) -> InputError:
    return InputError(f"{path} {what} while it was read", "put it back as it was, then run the same command again")
