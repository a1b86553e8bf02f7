"""Renders a template in a process of its own, which is killed when it takes too long: by its processor's time, so that a
machine that is busy, or that was suspended, refuses no row.

A chat template is a program of the model's author. Jinja runs it in the interpreter, where one operation on a huge value holds
everything: no other thread runs, no signal is handled. In a process of its own it holds nothing but itself; its memory and its
processor time are limited by the kernel, and what it did to that process ends with it. Numbers in docs/concepts/trust.md.

    parent                                         child
    pickled: kind of template, text, limits   ->
                                                <- ready, when it has imported; rendered or refused, when it has compiled
    pickled: arguments of `render`            ->
                                                <- rendered text, or refused and why
"""

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import Any

from pagecli.model.tokenizer.templates import limits
from pagecli.model.tokenizer.templates.child import HEAD, RENDERED, Kind, make_template, refusal

START_SECONDS = 60.0  # for a Python that starts
MARGIN_SECONDS = 0.5  # the template's own deadline comes first, with a better reason
WAIT_SECONDS = 5.0  # at most, at a time
MOST_IDLE_WAITS = 60  # one after the other, in which it computed nothing: it never will
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from pagecli.model.tokenizer.templates.child import serve; serve()"


class TemplateRefused(Exception):
    """The template cannot be compiled, or refused what it was given; the message says why."""


class _Ended(Exception):
    """The process ended without an answer."""


class TemplateProcess:
    """A template, rendered elsewhere. The process is started when it is first needed, and anew after it was killed."""

    def __init__(self, kind: Kind, **setup: Any) -> None:
        """`setup`: the arguments of the template's class (child.make_template)."""
        self._setup: dict[str, Any] = {"kind": kind, **setup}
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., TemplateProcess] | None = None
        self._lock = threading.Lock()  # one request at a time
        self._never: str | None = None  # why it cannot be compiled
        self._here: Any = None  # where the system starts no more processes

    def render(self, *arguments: Any) -> str:
        """The text that the template's class renders of `arguments`. Raises TemplateRefused."""
        request = pickle.dumps(arguments)
        with self._lock:
            if self._process is not None:
                try:
                    return self._ask(request, limits.MAX_SECONDS)
                except _Ended:  # perhaps while it had nothing to do
                    self._stop()
            try:
                self._start()
                if self._here is not None:
                    return self._rendered_here(arguments)
                return self._ask(request, limits.MAX_SECONDS)
            except _Ended as ended:
                self._stop()
                raise TemplateRefused(str(ended)) from None

    def _start(self) -> None:
        if self._never is not None:
            raise TemplateRefused(self._never)
        command = [sys.executable, "-c", _CHILD, *(path or os.getcwd() for path in sys.path)]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0)
        except OSError:  # limits of processes or memory: no reason to refuse a row
            self._here = self._here or self._made_here()
            return
        self._end = weakref.finalize(self, _end, self._process)  # at the latest when the interpreter exits
        setup = self._setup | {"max_seconds": limits.MAX_SECONDS, "max_steps": limits.MAX_STEPS}
        self._ask(pickle.dumps(setup), START_SECONDS)
        try:
            self._ask(b"", limits.MAX_SECONDS)
        except (_Ended, TemplateRefused) as error:  # it would be the same for every row
            self._stop()
            self._never = str(error)
            raise TemplateRefused(self._never) from None

    def _made_here(self) -> Any:
        try:
            return make_template(**self._setup)
        except Exception as error:
            self._never = refusal(error)
            raise TemplateRefused(self._never) from None

    def _rendered_here(self, arguments: tuple[Any, ...]) -> str:
        try:
            text: str = self._here.render(*arguments)
        except Exception as error:
            raise TemplateRefused(refusal(error)) from None
        return text

    def _ask(self, request: bytes, seconds: float) -> str:
        try:
            return self._exchange(request, seconds)
        except (_Ended, TemplateRefused):
            raise
        except BaseException:  # an answer may be under way, which the next request must not get
            self._stop()
            raise

    def _exchange(self, request: bytes, seconds: float) -> str:
        assert self._process is not None
        assert self._process.stdin is not None
        most = _seconds_of(self._process.pid) + seconds + MARGIN_SECONDS
        try:
            view = memoryview(request)
            while view:
                view = view[self._process.stdin.write(view) :]
        except BrokenPipeError:
            raise _Ended(self._why_ended()) from None
        kind, length = HEAD.unpack(self._read(HEAD.size, most))
        text = self._read(length, most).decode("utf-8", "surrogatepass")
        if kind != RENDERED:
            raise TemplateRefused(text)
        return text

    def _read(self, num_bytes: int, most: float) -> bytes:
        """`most`: processor time at which the process is killed."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor, parts = self._process.stdout.fileno(), []
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while num_bytes > 0:
            if not self._answers(poll, most):
                self._stop()
                raise TemplateRefused(_too_long())
            part = os.read(descriptor, min(num_bytes, 1 << 20))
            if not part:
                raise _Ended(self._why_ended())
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)

    def _answers(self, poll: select.poll, most: float) -> bool:
        """Waits until there is something to read; not, and False, beyond so much processor time, or where none passes."""
        assert self._process is not None
        used, num_idle = _seconds_of(self._process.pid), 0
        while used < most and num_idle < MOST_IDLE_WAITS:
            if poll.poll(min(max(most - used, 1.0), WAIT_SECONDS) * 1000):
                return True
            before, used = used, _seconds_of(self._process.pid)
            num_idle = num_idle + 1 if used == before else 0
        return bool(poll.poll(0))

    def _why_ended(self) -> str:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            if code == -signal.SIGXCPU:
                return _too_long()
            if code < 0:
                return f"its process was ended by {signal.Signals(-code).name}"
        return "its process ended"

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._end = None


def _seconds_of(pid: int) -> float:
    """Processor time of a process so far; where the system does not say, the time there is."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            user, system = file.read().rpartition(b")")[2].split()[11:13]
    except (OSError, ValueError):
        return time.monotonic()
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _too_long() -> str:
    return f"it ran more than {limits.MAX_SECONDS:g} seconds without an end"


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
