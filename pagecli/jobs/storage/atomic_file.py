"""Files that appear under their name only when complete: a hidden temporary, fsynced, then renamed.

The temporary lies in the directory of the file's job where there is one (job_directory.py), so that the next run of the job
removes it if this one is killed; else beside the file. WholeFile is such a file that is written again and again.
"""

import contextlib
import errno
import glob
import os
import secrets
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pagecli.core.file_targets import check_replaceable, is_stream_target, mode_of, open_stream, resolved_target, write_all
from pagecli.errors import InputError, PagecliError, UsageError, reason_of
from pagecli.jobs.storage.job_directory import TEMPORARY_SUFFIX, note_publishing, now_of_files, sync, temporary_home

STALE_SECONDS = 600.0  # a temporary of another host, whose processes cannot be seen, is not touched before
_temporaries: set[Path] = set()  # created by this process, or about to be


def check_output(path: Path, overwrite: bool) -> None:
    """Raises UsageError if `path` may not be replaced, InputError if its directory cannot take files."""
    mode_of(path)
    check_replaceable(path)
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} already exists", "give another name, or --overwrite to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such directory", f"create it: mkdir -p {shlex.quote(str(path.parent))}")
    _remove_stale_temporaries(path)


def create_temporary(final: Path) -> tuple[Path, BinaryIO]:
    """A new hidden file on the file system of `final`, with the permissions a plain new file would get. Raises InputError."""
    name = os.fsdecode(os.fsencode(final.name)[:200])
    temporary = temporary_home(final) / f".{name}.{os.getpid()}-{secrets.token_hex(3)}{TEMPORARY_SUFFIX}"
    _temporaries.add(temporary)
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise not_writable(final, error) from error
    return temporary, os.fdopen(fd, "wb")


def _remove_stale_temporaries(final: Path) -> None:
    """Remove temporaries of `final` that killed processes left beside it."""
    for path in final.parent.glob(f".{glob.escape(final.name)}.*-*{TEMPORARY_SUFFIX}"):
        pid = path.name.removeprefix(f".{final.name}.").partition("-")[0]
        with contextlib.suppress(OSError, ValueError, OverflowError):
            found = os.stat(path, follow_symlinks=False)
            is_ours = found.st_uid == os.geteuid() and not _exists(int(pid))
            if is_ours and now_of_files(final.parent) - found.st_mtime > STALE_SECONDS:
                os.unlink(path)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def publish(temporary: Path, final: Path, overwrite: bool) -> None:
    """Gives the complete file its name, durably. Raises UsageError if the name has been taken meanwhile, InputError."""
    try:
        sync(temporary)
        note_publishing(temporary, final)
        if overwrite:
            check_replaceable(final)
            os.replace(temporary, final)
        else:
            _rename_without_replacing(temporary, final)
        sync(final.parent)
    except FileExistsError as error:
        hint = "move that file away, then run the same command again"
        raise UsageError(f"{final} was created by another process meanwhile", hint) from error
    except OSError as error:
        raise not_writable(final, error) from error


def _rename_without_replacing(temporary: Path, final: Path) -> None:
    try:
        os.link(temporary, final)  # unlike rename, fails if the name is taken
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(final):
            raise FileExistsError(final) from None
        check_replaceable(final)
        os.replace(temporary, final)
    else:
        os.unlink(temporary)


def write_atomically(path: Path, content: bytes, durable: bool = True) -> None:
    """Replaces `path` with `content` in one step, forced to the disk before if `durable`. Raises InputError."""
    temporary, file = create_temporary(path)
    try:
        try:
            with file:
                file.write(content)
        except OSError as error:
            raise not_writable(path, error) from error
        if durable:
            publish(temporary, path, overwrite=True)
            return
        check_replaceable(path)
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise not_writable(path, error) from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    _temporaries.discard(path)


def remove_temporaries() -> None:
    """All that are left of this process, after an exception that a signal raised: it may come before a caller knows the name of
    its temporary, and while it removes it."""
    for path in list(_temporaries):
        with contextlib.suppress(OSError):
            remove(path)


def partial_path(final: Path, suffix: str, logs: Iterable[str] = ()) -> Path:
    """A free name for the finished rows of a job that did not end: out.partial.parquet, out.partial-2.parquet, ...

    `logs`: what a database's name may have behind it, which must be free too.
    """
    stem = os.fsdecode(os.fsencode(final.name.removesuffix(suffix))[:200])
    number = 1
    while True:
        path = final.parent / f"{stem}.partial{'' if number == 1 else f'-{number}'}{suffix}"
        if not any(os.path.lexists(f"{path}{log}") for log in ("", *logs)):
            return path
        number += 1


def not_writable(path: Path | str, error: OSError) -> PagecliError:
    """The one line for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InputError(f"{path}: no space left to write to", "free some space, or write to another file system")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"{path}: the directory is not writable", "write to a directory you may create files in")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = "put it back, or create it, then run the same command again"
        return InputError(f"{path} cannot be written: its directory is not there any more", hint)
    return InputError(f"{path} cannot be written: {reason_of(error)}")


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
