"""Signals end a job in time: noted during the run, raised outside of it, and seen even in the middle of a long step."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pagecli.errors import InputError
from pagecli.jobs.run import stop_signals as module
from pagecli.jobs.run.stop_signals import StopRequested, stop_signals


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    handlers = [signal.getsignal(number) for number in module.SIGNALS]
    yield
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert [signal.getsignal(number) for number in module.SIGNALS] == handlers
    assert signal.set_wakeup_fd(-1) == -1


def in_child(run) -> int:
    """A forked process that runs `run(ready)`; returns its pid once it called ready()."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            run(lambda: os.write(write_end, b"x"))
        finally:
            os._exit(99)
    os.read(read_end, 1)
    os.close(read_end)
    os.close(write_end)
    return pid


def wait(pid: int) -> tuple[int, float]:
    started = time.monotonic()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), time.monotonic() - started


def long_step(ready) -> None:
    """Sleeps on after a signal, as a step inside a kernel does."""
    with stop_signals() as signals:
        signals.on_deadline = lambda signum: os.write(1, b"")
        with signals.deferred():
            ready()
            time.sleep(30)


@pytest.mark.slow
@pytest.mark.parametrize("signum", module.SIGNALS)
def test_step_that_takes_too_long_is_not_waited_for(monkeypatch, signum):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    pid = in_child(long_step)
    os.kill(pid, signum)
    code, seconds = wait(pid)
    assert code == 128 + signum
    assert seconds < 3


@pytest.mark.slow
def test_the_deadlines_callback_runs_before_the_end(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    said = tmp_path / "said"

    def run(ready):
        with stop_signals() as signals:
            signals.on_deadline = lambda signum: said.write_text(f"saved at {signum}")
            with signals.deferred():
                ready()
                time.sleep(30)

    pid = in_child(run)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid)[0] == 143
    assert said.read_text() == f"saved at {signal.SIGTERM}"


@pytest.mark.slow
def test_job_that_ends_by_itself_in_time_is_left_alone(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)

    def run(ready):
        with stop_signals() as signals:
            signals.on_deadline = lambda signum: None
            with signals.deferred():
                ready()
                while signals.received is None:
                    time.sleep(0.01)
        time.sleep(0.5)
        os._exit(7)

    pid = in_child(run)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid)[0] == 7


@pytest.mark.slow
def test_second_signal_ends_at_once():
    pid = in_child(long_step)
    os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    code, seconds = wait(pid)
    assert code in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert seconds < 2


@pytest.mark.slow
def test_hangup_that_is_ignored_stays_ignored():
    def run(ready):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stop_signals() as signals, signals.deferred():
            ready()
            time.sleep(0.3)
            os._exit(0 if signals.received is None else 1)

    pid = in_child(run)
    os.kill(pid, signal.SIGHUP)
    assert wait(pid)[0] == 0


def test_other_signals_are_none_of_its_business():
    with stop_signals() as signals:
        former = signal.signal(signal.SIGUSR1, lambda *args: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.05)
        signal.signal(signal.SIGUSR1, former)
        assert signals.received is None


def test_hangup_outside_a_run_is_raised():
    with pytest.raises(StopRequested) as caught, stop_signals():
        signal.raise_signal(signal.SIGHUP)
    assert caught.value.signum == signal.SIGHUP


def as_an_import_error() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException as error:
        raise ImportError("the extension cannot be initialized") from error


def as_a_line_on_a_missing_package() -> None:
    try:
        as_an_import_error()
    except ImportError as error:
        raise InputError("that needs a package that is not installed") from error


def as_an_error_without_its_cause() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        raise RuntimeError("a library failed") from None


def as_an_error_later() -> None:
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)
    raise KeyError("what was not imported")


@pytest.mark.parametrize(
    "library", [as_an_import_error, as_a_line_on_a_missing_package, as_an_error_without_its_cause, as_an_error_later]
)
def test_an_error_that_a_library_makes_of_a_signal_is_that_signal(library):
    with pytest.raises(StopRequested) as caught, stop_signals():
        library()
    assert caught.value.signum == signal.SIGTERM
    assert isinstance(caught.value.__cause__, Exception)


SIGNAL_IN_AN_EXTENSION = """
import enum, signal, sys
from pagecli.jobs.run.stop_signals import StopRequested, stop_signals

set_attribute, met = enum.EnumType.__setattr__, []

def meeting(*args):
    if not met:
        met.append(True)
        signal.raise_signal(signal.SIGTERM)
    set_attribute(*args)

enum.EnumType.__setattr__ = meeting
try:
    with stop_signals():
        import duckdb
        sys.exit("not stopped")
except StopRequested:
    sys.exit(0 if met and sys.getprofile() is None else "too early, or not over")
"""


@pytest.mark.slow
def test_a_signal_in_the_initialization_of_an_extension_is_raised_after_it():
    """Where nanobind makes an enumeration, an exception ends the process."""
    if importlib.util.find_spec("duckdb") is None:
        pytest.skip("needs duckdb")
    ended = subprocess.run([sys.executable, "-c", SIGNAL_IN_AN_EXTENSION], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_error_beside_a_signal_that_was_only_noted_stays_itself():
    def fail():
        signal.raise_signal(signal.SIGTERM)
        raise InputError("the disk is full")

    with pytest.raises(InputError), stop_signals() as signals, signals.deferred():
        fail()


def test_elsewhere_than_in_the_main_thread_nothing_is_installed():
    seen = []

    def run():
        with stop_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def hold_the_interpreter() -> None:
    """A minute in one call that neither gives its lock to other threads nor looks for signals."""
    sum([[1]] * 300_000, [])  # noqa: RUF017 (that is what takes long)


@pytest.mark.slow
@pytest.mark.parametrize("on_deadline", [None, lambda signum: None])
@pytest.mark.parametrize("signum", module.SIGNALS)
def test_an_operation_that_holds_the_interpreter_ends_in_time_too(monkeypatch, signum, on_deadline):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)

    def run(ready):
        with stop_signals() as signals, signals.deferred():
            signals.on_deadline = on_deadline
            ready()
            hold_the_interpreter()

    pid = in_child(run)
    os.kill(pid, signum)
    code, seconds = wait(pid)
    assert code == 128 + signum
    assert 0.5 < seconds < 10


@pytest.mark.slow
def test_the_second_signal_ends_what_holds_the_interpreter_at_once():
    def run(ready):
        with stop_signals() as signals, signals.deferred():
            ready()
            hold_the_interpreter()

    pid = in_child(run)
    time.sleep(0.3)
    os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    code, seconds = wait(pid)
    assert code in (143, -signal.SIGTERM)  # -15 where Python's own handler came first
    assert seconds < 3


@pytest.mark.slow
def test_a_program_that_saves_for_long_is_not_cut_short(monkeypatch):
    """Without a callback it ends by itself, however long that takes, if the interpreter is free."""
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(module, "HELD_SECONDS", 0.3)

    def run(ready):
        with stop_signals() as signals, signals.deferred():
            ready()
            while signals.received is None:
                time.sleep(0.01)
            time.sleep(1.0)
            os._exit(7)

    pid = in_child(run)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid)[0] == 7
