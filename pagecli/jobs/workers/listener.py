"""How workers of other hosts reach their driver: it listens, they connect, and both prove that they know the key of the job.

    worker -> driver    number (8 bytes), nonce (32)
    driver -> worker    nonce (32), proof (32)
    worker -> driver    proof (32)

The key goes to the workers by whoever starts them, never over this connection; a proof is an HMAC-SHA256 of role, number and
both nonces. Only then are messages taken, since they are pickled.
"""

import contextlib
import hmac
import os
import secrets
import socket
import struct
import threading
from dataclasses import dataclass

from pagecli.core.message_socket import MessageSocket
from pagecli.errors import ModelError, UsageError, reason_of

_NUMBER = struct.Struct("<Q")
_NONCE_BYTES = _PROOF_BYTES = 32
PROOF_SECONDS = 10.0  # for which a connection may take to prove itself
CONNECT_SECONDS = 30.0
SILENT_SECONDS = 60  # after which a connection whose host is gone is closed


@dataclass(frozen=True, slots=True)
class Appointment:
    """What a worker needs to reach its driver; not to be shown."""

    host: str
    port: int
    key: bytes
    number: int


class ExpectedSocket(MessageSocket):
    """Messages to a worker that has yet to connect: they wait."""

    def __init__(self) -> None:
        self._pair = socket.socketpair()  # what is waited for until then
        super().__init__(self._pair[0])
        self.is_connected = False

    @property
    def has_unsent(self) -> bool:
        return self.is_connected and super().has_unsent

    def flush(self) -> None:
        if self.is_connected:
            super().flush()

    def attach(self, connection: socket.socket) -> bool:
        """False if it is closed, or connected already."""
        with self._sending:
            if self.is_closed or self.is_connected:
                return False
            connection.setblocking(False)
            self._socket, self.is_connected = connection, True
            return True

    def close(self) -> None:
        super().close()
        for end in self._pair:  # not before: another thread may be waiting for it
            end.close()


class Listener:
    """The driver's end. Raises UsageError if the port is taken, ModelError if the address is not one of this host."""

    def __init__(self, host: str, port: int = 0) -> None:
        """`port` 0: any that is free."""
        self._key = secrets.token_bytes(32)
        self._expected: dict[int, ExpectedSocket] = {}
        self._next = 0
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            if port:
                raise UsageError(f"--ray-port {port} on {host}: {error.strerror}", "give another, or leave it out") from error
            raise ModelError(f"cannot listen on {host}: {error.strerror}", "see the network's settings") from error
        self.host, self.port = self._socket.getsockname()[:2]
        threading.Thread(target=self._accept, name="pagecli-listener", daemon=True).start()

    def expect(self) -> tuple[Appointment, ExpectedSocket]:
        """For one more worker."""
        self._next += 1
        self._expected[self._next] = ExpectedSocket()
        return Appointment(self.host, self.port, self._key, self._next), self._expected[self._next]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._admit, args=(connection,), daemon=True).start()

    def _admit(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.settimeout(PROOF_SECONDS)
            number = _read(connection, _NUMBER.size)
            nonces = _read(connection, _NONCE_BYTES) + os.urandom(_NONCE_BYTES)
            connection.sendall(nonces[_NONCE_BYTES:] + _proof(self._key, b"driver", number, nonces))
            answer = _read(connection, _PROOF_BYTES)
            if hmac.compare_digest(answer, _proof(self._key, b"worker", number, nonces)):
                _keep_alive(connection)
                expected = self._expected.pop(_NUMBER.unpack(number)[0], None)
                if expected is not None and expected.attach(connection):
                    return
        connection.close()


def connect(to: Appointment) -> MessageSocket:
    """A worker's end. Raises OSError."""
    try:
        connection = socket.create_connection((to.host, to.port), CONNECT_SECONDS)
    except OSError as error:
        raise ConnectionError(f"the driver cannot be reached at {to.host}:{to.port}: {reason_of(error)}") from error
    number, nonce = _NUMBER.pack(to.number), os.urandom(_NONCE_BYTES)
    connection.settimeout(PROOF_SECONDS)
    connection.sendall(number + nonce)
    nonces = nonce + _read(connection, _NONCE_BYTES)
    if not hmac.compare_digest(_read(connection, _PROOF_BYTES), _proof(to.key, b"driver", number, nonces)):
        raise ConnectionError(f"at {to.host}:{to.port} is another driver")
    connection.sendall(_proof(to.key, b"worker", number, nonces))
    _keep_alive(connection)
    return MessageSocket(connection)


def _proof(key: bytes, role: bytes, number: bytes, nonces: bytes) -> bytes:
    return hmac.digest(key, role + number + nonces, "sha256")


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 10), ("TCP_USER_TIMEOUT", SILENT_SECONDS * 1000)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _read(connection: socket.socket, size: int) -> bytes:
    """Raises OSError if the other end closes first."""
    found = b""
    while len(found) < size:
        piece = connection.recv(size - len(found))
        if not piece:
            raise ConnectionError("closed while it proved itself")
        found += piece
    return found
