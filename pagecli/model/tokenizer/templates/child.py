"""The process that renders a template for process.py: it answers one request after the other until its input ends."""

import contextlib
import os
import pickle
import resource
import signal
import struct
from typing import Any, BinaryIO, Literal

from pagecli.errors import first_line

Kind = Literal["chat", "row"]  # of a template: ChatTemplate, RowTemplate
RENDERED, REFUSED = b"T", b"E"
HEAD = struct.Struct("<cQ")  # kind and length in bytes of an answer


def serve() -> None:
    """Reads pickles: a template with its limits, then what to render; answers each, and first that it has imported."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal: the parent decides
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    from pagecli.model.tokenizer.templates import chat_template, limits  # noqa: F401 (imported before memory is limited)

    setup = pickle.load(requests)
    _limit(resource.RLIMIT_AS, limits.MAX_MEMORY_BYTES)
    _answer(answers, RENDERED, "")
    limits.MAX_SECONDS, limits.MAX_STEPS = setup.pop("max_seconds"), setup.pop("max_steps")
    _limit_seconds(limits.MAX_SECONDS)
    template: Any = None
    with _refusing(answers):
        template = make_template(**setup)
        _answer(answers, RENDERED, "")
    while template is not None:
        try:
            arguments = pickle.load(requests)
        except EOFError:
            return
        _limit_seconds(limits.MAX_SECONDS)
        with _refusing(answers):
            _answer(answers, RENDERED, template.render(*arguments))


def make_template(kind: Kind, **setup: Any) -> Any:
    """A template of this kind, to be rendered in this process. Raises jinja2's TemplateError."""
    if kind == "row":
        from pagecli.model.tokenizer.templates.row_template import RowTemplate

        return RowTemplate(**setup)
    from pagecli.model.tokenizer.templates.chat_template import ChatTemplate

    return ChatTemplate(**setup)


def refusal(error: Exception) -> str:
    """What an exception of a template says, in one line."""
    return "needs too much memory" if isinstance(error, MemoryError) else first_line(error)


def _answer(answers: BinaryIO, kind: bytes, text: str) -> None:
    payload = text.encode("utf-8", "surrogatepass")
    answers.write(HEAD.pack(kind, len(payload)))
    answers.write(payload)
    answers.flush()


class _refusing:
    """A context manager: sends an exception of the template as the answer."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        _answer(self._answers, REFUSED, refusal(error))
        return True


def _limit(what: int, value: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # a limit that is lower already stays
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _limit_seconds(seconds: float) -> None:
    """The kernel ends the process when it has computed so long from now on, whether or not there is a parent to do it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 2)


def _die_with_parent() -> None:
    import ctypes

    with contextlib.suppress(Exception):  # Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
