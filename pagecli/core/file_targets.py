"""Targets of paths: the file that a path leads to, which paths are one file, and what may be replaced or streamed to.

A symbolic link stands for the file it leads to: that file is created or replaced, the link stays. A target that exists
and is not a regular file is never replaced: pipes, character devices and open descriptors (/dev/fd/N, a shell's
`>(...)`) are opened and written to as streams; block devices, sockets and directories are refused.

Two paths are one file by device and inode where it exists, by directory and name where it does not yet.

A path may be a URL: file:// is a local path; of any other (s3://, hf://, ...) only its text is known here.
"""

import errno
import fcntl
import hashlib
import os
import re
import select
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pagecli.errors import InputError, UsageError, reason_of

MAX_LINKS = 40  # as many as Linux follows
_NULL_DEVICE = os.makedev(1, 3)  # Linux


def scheme_of(path: str) -> str:
    """What stands before ://, in lower case; empty for a local path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    return match[1].lower() if match else ""


def is_remote(path: str) -> bool:
    return scheme_of(path) not in ("", "file")


def local(path: str) -> str:
    """A local path, also of a file:// URL."""
    if scheme_of(path) != "file":
        return path
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(path).path)


def shown(path: str) -> str:
    """The path as it may be printed and kept: without user, password and query, where secrets stand."""
    if not is_remote(path):
        return path
    scheme, rest = path.split("://", 1)
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, tail = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{tail}"


def on_this_machine(path: str | Path) -> Path:
    """The path, also of a file:// URL. Raises UsageError for any other URL, even one that a Path has taken a slash of."""
    scheme, _, rest = str(path).partition(":/")
    if not rest or not scheme_of(f"{scheme}://") or os.path.isdir(f"{scheme}:"):
        return Path(path)
    url = f"{scheme}://{rest.removeprefix('/')}"
    if is_remote(url):
        raise UsageError(f"{shown(url)} is a URL", "name what lies on this machine; INPUT and OUTPUT of a job may be URLs")
    return Path(local(f"file:///{rest.lstrip('/')}"))


def expanded(path: str) -> Path:
    """The path, with the home directory in place of a ~ or ~user that has one. Raises UsageError for a URL."""
    found = on_this_machine(path)
    try:
        return found.expanduser()
    except RuntimeError:  # no such user, or one without a home
        return found


def normalized(path: str) -> str:
    """Equal for URLs that are spelled differently and name one object."""
    scheme, _, rest = shown(path).partition("://")
    scheme = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}.get(scheme.lower(), scheme.lower())
    return f"{scheme}://{rest.rstrip('/')}"


def descriptor_of(path: str) -> int | None:
    """The number of the open descriptor that `path` names (1 for /dev/stdout); None for any other path."""
    for _ in range(MAX_LINKS):
        folder, name = os.path.split(path)
        if name.isdecimal() and len(name) < 10 and os.path.realpath(folder or ".") in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
            return int(name)
        try:
            path = os.path.join(folder, os.readlink(path))
        except (OSError, ValueError):
            return None
    return None


def mode_of(path: Path | str) -> int | None:
    """st_mode of the file that `path` leads to; None if no file exists. Raises InputError if stat() fails."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no path: {error}", "name a file") from error
    except OSError as error:
        raise unusable_path(path, error) from error


def unusable_path(path: Path | str, error: OSError) -> InputError:
    """InputError for a path that the operating system refuses (too long, a loop of links, no permission)."""
    if error.errno == errno.ENAMETOOLONG:
        shown = f"{str(path)[:60]}..."
        return InputError(f"{shown}: the name is too long", "most file systems take names of 255 bytes")
    if error.errno == errno.ELOOP:
        return InputError(f"{path}: its symbolic links go round in a circle", "remove the link")
    return InputError(f"{path}: {reason_of(error)}", "name a file that this user may use")


def is_stream(path: str) -> bool:
    """True for `-`, an open descriptor (/dev/fd/N), a named pipe, a process substitution or a terminal: readable once, size
    unknown. Raises InputError for a path that no file can have."""
    if path == "-" or descriptor_of(path) is not None:
        return True
    mode = mode_of(path)
    return mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode))


def is_stream_target(path: Path | str) -> bool:
    """Whether what is written to `path` goes to a pipe, a character device or an open descriptor. Raises InputError."""
    if descriptor_of(str(path)) is not None:
        return True
    mode = mode_of(path)
    return mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode))


def resolved_target(path: Path) -> Path:
    """`path`, or the file that its symbolic link leads to, which need not exist. Raises UsageError, InputError.

    As Linux itself does (protected_symlinks), it follows no link in a world-writable directory unless the link
    belongs to this user or to the directory's owner: another user may have planted it.
    """
    for _ in range(MAX_LINKS):
        try:
            found = os.lstat(path)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                raise unusable_path(path, error) from error
            return path
        if not stat.S_ISLNK(found.st_mode):
            return path
        folder = os.stat(path.parent)
        if folder.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), folder.st_uid):
            raise UsageError(
                f"{path} is a symbolic link of another user in a world-writable directory",
                "remove it, or name a file in a directory of your own",
            )
        path = path.parent / os.readlink(path)
    raise unusable_path(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))


def local_output_path(output: str) -> Path:
    """Where an output is written on this machine, its journal beside it: itself, or where its symbolic link leads; for a
    URL, in the state directory. Raises UsageError, InputError."""
    if not is_remote(output):
        return resolved_target(Path(local(output)))
    name = shown(output).rstrip("/").rpartition("/")[2] or "output"
    digest = hashlib.blake2b(shown(output).encode("utf-8", "replace"), digest_size=8).hexdigest()
    return state_directory() / "outputs" / digest / name


def state_directory() -> Path:
    """$XDG_STATE_HOME/pagecli, or ~/.local/state/pagecli. Raises UsageError for a user without a home."""
    home = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(home):
        return Path(home) / "pagecli"
    try:
        return Path.home() / ".local" / "state" / "pagecli"
    except RuntimeError as error:
        raise UsageError("this user has no home directory", "point XDG_STATE_HOME to a directory you can write to") from error


def check_replaceable(path: Path) -> None:
    """Raises UsageError if `path` exists and is no regular file: only those may be replaced. Follows no symbolic link."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # not there, or said by what is done next
        return
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFBLK: "a block device", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}
    what = kinds.get(stat.S_IFMT(mode), "a device or a pipe")
    raise UsageError(f"{path} is {what}", "give the name of a file to write")


def open_stream(path: Path | str, waits: bool = False) -> int:
    """A descriptor that writes to the stream at `path`. Raises UsageError, InputError.

    `waits`: opening a named pipe without a reader blocks until it has one, as in a shell; without `waits` it is refused.
    """
    number = descriptor_of(str(path))
    if number is not None:
        return duplicate(number, str(path))
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
    try:
        try:
            fd = os.open(path, flags | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if not waits:
                raise InputError(f"{path}: no process reads this pipe", "start its reader first") from error
            fd = os.open(path, flags)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason_of(error)}", "name a file or pipe you may write to") from error
    os.set_blocking(fd, True)
    return fd


def duplicate(number: int, name: str) -> int:
    """A duplicate (dup(2)) of the open descriptor `number`, which messages call `name`. Raises UsageError if it is not open."""
    try:
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
            return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    except (OSError, OverflowError) as error:
        raise UsageError(f"{name}: no such open descriptor", f"open it, as in {number}>FILE, or give a file name") from error
    raise UsageError(f"{name}: the descriptor is open for reading only", f"open it for writing: {number}>FILE")


def write_all(fd: int, content: bytes | bytearray) -> None:
    """Writes all of it, waiting for room also where the descriptor itself does not wait. Raises OSError."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            wait_for_room(fd)


def wait_for_room(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


Identity = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path, and the flag or argument (INPUT) that messages name it by."""

    part: str
    path: str

    def __str__(self) -> str:
        return f"{self.part} {self.path}"


def identity_of(path: str) -> Identity | None:
    """A value equal for all paths of one file; None for devices and sockets, which several readers and writers may share."""
    number = descriptor_of(path)
    try:
        found = os.stat(path) if number is None else os.fstat(number)
    except (OSError, ValueError):
        return _identity_of_new(path) if number is None else None
    if stat.S_ISCHR(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        return None
    return found.st_dev, found.st_ino


def _identity_of_new(path: str) -> Identity | None:
    try:
        resolved = Path(os.path.realpath(path))
        folder = resolved.parent.stat()
    except (OSError, ValueError):
        return ("path", os.path.realpath(path)) if "\0" not in path else None
    return folder.st_dev, folder.st_ino, resolved.name


def exists(path: str) -> bool:
    return descriptor_of(path) is not None or os.path.exists(path)


def check_distinct(written: Iterable[NamedPath], read: Iterable[NamedPath]) -> None:
    """Raises UsageError if a written file is also read, or written twice. `read` is not looked at if no written file exists."""
    found: dict[Identity, NamedPath] = {}
    for each in written:
        identity = identity_of(each.path)
        if identity is None:
            continue
        if identity in found:
            raise UsageError(f"{each} is the same file as {found[identity]}", "give each a file of its own")
        found[identity] = each
    if not any(exists(each.path) for each in found.values()):
        return
    for each in read:
        identity = identity_of(each.path)
        if identity is not None and identity in found:
            raise UsageError(f"{found[identity]} is a file that is read: {each}", "write to another file")


def check_read_once(read: Iterable[NamedPath]) -> None:
    """Raises UsageError if a stream, which gives its bytes once, is named twice: a pipe, an open descriptor, a terminal."""
    found: dict[Identity, NamedPath] = {}
    for each in read:
        identity = _stream_identity(each.path)
        if identity is not None and identity in found:
            message = f"{found[identity]} and {each} are one stream, which can be read only once"
            raise UsageError(message, "name a file for one of them")
        if identity is not None:
            found[identity] = each


def _stream_identity(path: str) -> Identity | None:
    """A value equal for all names of one stream; None for what every reader reads from its start, and for /dev/null."""
    number = 0 if path == "-" else descriptor_of(path)
    try:
        if not is_stream(path):
            return None
        state = os.stat(path) if number is None else os.fstat(number)
    except (OSError, ValueError, InputError):
        return None
    return None if stat.S_ISCHR(state.st_mode) and state.st_rdev == _NULL_DEVICE else (state.st_dev, state.st_ino)
