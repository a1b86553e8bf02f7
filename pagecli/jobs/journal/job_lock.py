"""One run for an output at a time: a lock in the directory of its job, with its owner and the owner's last sign of life.

flock(2) decides wherever it works, and ends with its process, however that ends: a lock left by a killed run is simply taken.
It reaches every process of this kernel, whatever container it is in and whatever its host name (kernels are told apart by
their boot id), and on a local file system there is no other. Where it is missing, or may not reach other hosts (network file
systems), the owner's note decides: a run in this pid namespace is looked for by its pid and start time, one elsewhere counts
as alive for a minute after it last touched the file, which it does every ten seconds.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pagecli.core.json_text import parsed
from pagecli.errors import UsageError
from pagecli.jobs.storage.job_directory import LOCK, JobDirectory, now_of_files
from pagecli.jobs.storage.records import check_fields, is_time

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
MAX_PID = 1 << 31
_LOCAL_FILE_SYSTEMS = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "tmpfs", "ramfs", "overlay"),
    *("vfat", "exfat", "ntfs3"),
}
_NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The process that holds a lock, or held it last. `process_start` is the kernel's, so that a pid used again is noticed.

    `boot_id` names the running kernel, `pid_namespace` what `pid` counts in; both None elsewhere than on Linux.
    """

    pid: int
    host: str
    started: float  # seconds since 1970
    process_start: str | None = None
    boot_id: str | None = None
    pid_namespace: str | None = None

    def __post_init__(self) -> None:
        """Raises TypeError, ValueError for what no process can have."""
        check_fields(self)
        if not 0 < self.pid < MAX_PID or not is_time(self.started):
            raise ValueError(f"process {self.pid}")

    @classmethod
    def this_process(cls) -> "LockOwner":
        pid = os.getpid()
        return cls(pid, socket.gethostname(), time.time(), _process_start(pid), _boot_id(), _pid_namespace())

    @property
    def is_of_this_kernel(self) -> bool:
        return self.host == socket.gethostname() if self.boot_id is None else self.boot_id == _boot_id()

    @property
    def is_here(self) -> bool:
        """Whether its pid belongs to this process's kernel and pid namespace."""
        return self.is_of_this_kernel and self.pid_namespace in (None, _pid_namespace())

    @property
    def is_running(self) -> bool:
        """Whether the process exists; precondition: `is_here`."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.process_start == _process_start(self.pid)


class OutputLocked(UsageError):
    """Another run has the lock of the output."""


class JobLock:
    """Holds the lock from its making until `release`. Raises OutputLocked if another run has it, OSError."""

    def __init__(self, directory: JobDirectory) -> None:
        self._directory = directory
        self._fd = directory.open(LOCK, os.O_RDWR | os.O_CREAT)
        try:
            self._acquire()
        except BaseException:
            os.close(self._fd)
            raise
        self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS

    def _acquire(self) -> None:
        has_flock = True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise self._busy() from error
            if error.errno not in _NO_FLOCK:
                raise
            has_flock = False
        found = os.fstat(self._fd)
        owner = read_owner(self._directory) if found.st_size else None  # empty: just created, or released
        if owner is not None:
            if has_flock and (owner.is_of_this_kernel or is_on_local_file_system(self._directory.path)):
                pass  # no other process has it
            elif owner.is_running if owner.is_here else self._age(found.st_mtime) < STALE_SECONDS:
                raise self._busy()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(asdict(LockOwner.this_process())).encode("ascii"), 0)

    def _age(self, modified: float) -> float:
        return now_of_files(self._directory.path) - modified

    def heartbeat(self) -> None:
        """Touches the lock file if its interval has passed. Raises OSError."""
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            os.utime(self._fd)

    def is_current(self) -> bool:
        """Whether the locked file still has its name; a run that ends removes it while it holds the lock."""
        return os.fstat(self._fd).st_nlink > 0

    def release(self) -> None:
        """Releases the lock, and removes the owner's note from it."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # a note that stays is harmless: its process has ended
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def _busy(self) -> OutputLocked:
        owner, output = read_owner(self._directory), self._directory.output
        if owner is None:
            return OutputLocked(f"another run is writing {output}", "wait for it, or write to another name")
        since = max(0, int(time.time() - owner.started))
        age = f"{since // 3600} h {since % 3600 // 60} min" if since >= 3600 else f"{since // 60} min {since % 60} s"
        where = "" if owner.is_here else f" on {owner.host}"
        hint = "wait for it, stop it, or write to another name"
        if not owner.is_here:
            hint += f"; if it has died, its lock is free {STALE_SECONDS:.0f} s after its last sign of life"
        return OutputLocked(f"another run is writing {output}: process {owner.pid}{where}, for {age}", hint)


def read_owner(directory: JobDirectory) -> LockOwner | None:
    """The owner that holds the lock or, if killed, held it last; None after an ordinary end."""
    try:
        with os.fdopen(directory.open(LOCK, os.O_RDONLY), "rb") as file:
            return LockOwner(**parsed(file.read(4096)))
    except (OSError, ValueError, TypeError):
        return None


def is_on_local_file_system(path: Path) -> bool:
    """Whether only this machine can write there; False where that is unknown."""
    resolved, found = os.path.realpath(path), ("", "")
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            mount_point = before.split()[4].replace("\\040", " ")  # as the kernel writes a space
            is_above = resolved == mount_point or resolved.startswith(mount_point.rstrip("/") + "/")
            if is_above and len(mount_point) >= len(found[0]):
                found = mount_point, after.split()[0]
    return found[1] in _LOCAL_FILE_SYSTEMS


def _boot_id() -> str | None:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _pid_namespace() -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def _process_start(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat, in clock ticks since boot; None elsewhere than on Linux."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return None
