"""Processes that a process of pagecli starts on its own host: they have a socket to it, and never outlive it.

The parent's death ends a child at once: the kernel kills it (Linux), and the socket's end is seen. Signals for the job (Ctrl-C,
a batch system's SIGTERM to all processes) are the parent's: a child leaves them alone.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pagecli.core.message_socket import MessageSocket

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_KEPT_BYTES = 4096  # of the end of what a child said on stderr


class ChildProcess:
    """`python -m module FD` in a process of its own; FD is its end of `messages`. Raises OSError if it cannot be started.

    Precondition: the starting thread lives as long as the child is wanted, as the kernel takes its end for the parent's.
    """

    def __init__(
        self,
        module: str,
        pass_fds: Sequence[int] = (),
        cpus: Sequence[int] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`cpus`: that it may run on; None: those of this process."""
        ours, theirs = socket.socketpair()
        package_root = str(Path(__file__).resolve().parents[2])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._said = _memory_file() if sys.platform == "linux" else tempfile.TemporaryFile()  # noqa: SIM115
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(theirs.fileno(), *pass_fds),
                start_new_session=True,
                env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.messages = MessageSocket(ours)
        self.pid = self._process.pid
        if cpus is not None:
            with contextlib.suppress(OSError):  # it has ended, or the machine does not let us
                os.sched_setaffinity(self.pid, cpus)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal that ended it."""
        return self._process.poll()

    def kill(self) -> None:
        """Ends it, whatever it does, and waits for its end."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()

    def close(self, grace_seconds: float = 0.0) -> None:
        """Gives it so long to end by itself after what was sent, then kills it."""
        if grace_seconds > 0 and self.exit_code is None:
            self.messages.flush_all(grace_seconds)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)
        self.kill()
        self.messages.close()
        self._said.close()

    def leave(self, seconds: float) -> None:
        """Closes the messages of one that tidies up and then ends by itself; waits so long for that, and does not kill it."""
        self.messages.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self._said.close()

    def end_text(self) -> str:
        """How it ended, in words, with the last line that it said on stderr."""
        code = self.exit_code
        if code is None:
            how = "still running"
        elif code < 0:
            how = f"killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += " (by hand, or for want of memory)"
        else:
            how = f"exit code {code}"
        line = self._last_line()
        return f"{how}; its last line: {line}" if line else how

    def _last_line(self) -> str:
        try:
            size = os.fstat(self._said.fileno()).st_size
            text = os.pread(self._said.fileno(), _KEPT_BYTES, max(0, size - _KEPT_BYTES)).decode("utf-8", "replace")
        except (OSError, ValueError):
            return ""
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


def _memory_file() -> IO[bytes]:
    """An open file that needs no directory to write to."""
    return os.fdopen(os.memfd_create("pagecli-stderr"), "w+b")


def end_with_parent() -> None:
    """From now on the kernel kills this process when the one that started it ends (Linux), even if it is stopped."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(1)


def connect_to_parent(tidies_up: bool = False) -> MessageSocket:
    """To be called first by a module that ChildProcess runs: its end of the messages.

    One that `tidies_up` is not killed with its parent: it must see the end of the messages, and end then.
    """
    if not tidies_up:
        end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return MessageSocket(socket.socket(fileno=int(sys.argv[1])))
