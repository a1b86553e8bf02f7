"""How workers of other hosts reach their driver: only those that it has started, each once."""

import contextlib
import dataclasses
import os
import resource
import socket
import time

import pytest

from pagecli.core.message_socket import wait_for_any
from pagecli.errors import ModelError, UsageError
from pagecli.jobs.workers.listener import Listener, connect


@pytest.fixture
def listener():
    made = Listener("127.0.0.1")
    yield made
    made.close()


def received(messages, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := messages.receive():
            return found
        time.sleep(0.01)
    return []


def test_messages_that_were_sent_before_the_worker_came_reach_it(listener):
    appointment, messages = listener.expect()
    messages.send("hello")
    assert not messages.is_connected
    assert not messages.has_unsent  # nobody waits until they can be sent
    worker = connect(appointment)
    worker.send("here")
    assert received(messages) == ["here"]
    messages.flush()
    assert worker.wait(5.0) == ["hello"]
    messages.close()
    assert worker.wait(5.0) == []
    assert worker.is_closed


def test_a_socket_of_any_number_is_waited_for(listener):
    """select(2) takes no descriptor beyond 1,023, which a program with many open files has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = []
    try:
        while True:  # once, but where something of other tests is closed meanwhile
            opened.append(os.open(os.devnull, os.O_RDONLY))
            while opened[-1] < 1100:
                opened.append(os.open(os.devnull, os.O_RDONLY))
            appointment, messages = listener.expect()
            worker = connect(appointment)
            if min(worker.fileno(), messages.fileno()) > 1023:
                break
        assert wait_for_any([worker], 0.01) == []
        messages.send("x" * 10_000_000)
        while not messages.is_connected:
            time.sleep(0.01)
        messages.flush()
        while not (found := worker.wait(0.01)):
            messages.flush_all(0.01)
        assert found == ["x" * 10_000_000]
        worker.send("back")
        assert wait_for_any([messages], 5.0) == [messages]
        messages.close()
        assert wait_for_any([worker], 5.0) == [worker]
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_several_workers_come_in_any_order(listener):
    expected = [listener.expect() for _ in range(3)]
    for appointment, _ in reversed(expected):
        connect(appointment).send(appointment.number)
    assert [received(messages) for _, messages in expected] == [[1], [2], [3]]


def test_strangers_are_sent_away_and_the_worker_still_comes(listener):
    appointment, messages = listener.expect()
    with pytest.raises(ConnectionError, match="another driver"):
        connect(dataclasses.replace(appointment, key=bytes(32)))
    with socket.create_connection((listener.host, listener.port)) as stranger:
        stranger.sendall(bytes(72) + b"guess" * 20)
        stranger.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(1000):  # nonce and proof, then the end
                pass
    assert not messages.is_connected
    worker = connect(appointment)
    worker.send(1)
    assert received(messages) == [1]


def test_a_worker_that_comes_a_second_time_is_sent_away(listener):
    appointment, messages = listener.expect()
    connect(appointment).send("first")
    assert received(messages) == ["first"]
    again = connect(appointment)
    assert again.wait(5.0) == []
    assert again.is_closed


def test_a_worker_that_is_not_wanted_any_more_is_sent_away(listener):
    appointment, messages = listener.expect()
    messages.close()
    late = connect(appointment)
    assert late.wait(5.0) == []
    assert late.is_closed


def test_port_in_use_and_foreign_addresses_are_one_line(listener):
    with pytest.raises(UsageError, match=f"--ray-port {listener.port} on 127.0.0.1: Address already in use"):
        Listener("127.0.0.1", listener.port)
    with pytest.raises(ModelError, match=r"cannot listen on 203\.0\.113\.1"):
        Listener("203.0.113.1")
