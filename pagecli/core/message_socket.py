"""Messages over a stream socket between processes of pagecli: a length (8 bytes), then the pickled message.

Sending never waits: a receiver that is stopped must not stop the sender too. What does not fit the socket's buffer is kept, and
goes out with a later `send` or `flush`. Both ends are pagecli's own processes; over a network, they prove it first.
"""

import contextlib
import pickle
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import Any

_LENGTH = struct.Struct("<Q")
_READ_BYTES = 1 << 18


class MessageSocket:
    """One end of a connection; `is_closed` once the other end is gone. `send` may be called by several threads."""

    is_connected = True

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._unsent = bytearray()
        self._received = bytearray()
        self._sending = threading.Lock()
        self.is_closed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent) and not self.is_closed

    def send(self, message: Any) -> None:
        """Without an effect once the other end is gone."""
        data = pickle.dumps(message, protocol=5)
        with self._sending:
            self._unsent += _LENGTH.pack(len(data))
            self._unsent += data
        self.flush()

    def flush(self) -> None:
        """Sends of the kept bytes what can be sent now."""
        with self._sending:
            while self._unsent and not self.is_closed:
                try:
                    sent = self._socket.send(self._unsent)
                except (BlockingIOError, InterruptedError):
                    return
                except OSError:
                    self.is_closed = True
                    return
                del self._unsent[:sent]

    def flush_all(self, seconds: float) -> None:
        """Waits until everything is sent, at most so long."""
        deadline = time.monotonic() + seconds
        while self.has_unsent and (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            poll.poll(left * 1000)
            self.flush()

    def receive(self) -> list[Any]:
        """The messages that have arrived in whole, without waiting."""
        while not self.is_closed:
            try:
                data = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            if not data:
                self.is_closed = True
            self._received += data
        messages = []
        while len(self._received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
            if len(self._received) < end:
                break
            messages.append(pickle.loads(self._received[_LENGTH.size : end]))
            del self._received[:end]
        return messages

    def wait(self, seconds: float | None) -> list[Any]:
        """As receive, after waiting for a message or the end; empty: nothing came in time, or the other end is gone."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self.is_closed:
            messages = self.receive()
            left = None if deadline is None else deadline - time.monotonic()
            if messages or (left is not None and left <= 0):
                return messages
            if not self.is_closed:
                wait_for_any([self], left)
                self.flush()
        return self.receive()

    def close(self) -> None:
        self.is_closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def wait_for_any(sockets: Iterable[MessageSocket], seconds: float | None) -> list[MessageSocket]:
    """Waits until one of them has something to receive, its end included, or takes some of what is kept, at most so long;
    returns those that have something."""
    poll = select.poll()  # unlike select, of descriptors of any number
    found = {each.fileno(): each for each in sockets}
    for fd, each in found.items():
        poll.register(fd, select.POLLIN | (select.POLLOUT if each.has_unsent else 0))
    events = poll.poll(None if seconds is None else max(0.0, seconds) * 1000)
    return [found[fd] for fd, event in events if event & ~select.POLLOUT]
