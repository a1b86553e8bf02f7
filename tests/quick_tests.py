"""What keeps the quick tests quick: one that starts a process of its own fails, however fast the machine is."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Templates of conversations, a part of reading any prompt, are rendered in a process each; without it, in the program's own.
TEMPLATES = ROOT / "pagecli" / "model" / "tokenizer" / "templates"


@contextmanager
def no_processes() -> Iterator[None]:
    """Within it a process that a test, or pagecli for it, would start is a failure that names the mark. A template finds
    that none can be started, as where the system has no more: a tenth of a second less for each."""
    begin = subprocess.Popen.__init__

    def refuse(self: subprocess.Popen, *args: object, **settings: object) -> None:
        caller = sys._getframe(1)
        while caller.f_code.co_filename == subprocess.__file__ and caller.f_back is not None:
            caller = caller.f_back
        path = Path(caller.f_code.co_filename)
        if path.is_relative_to(TEMPLATES):
            raise BlockingIOError(errno.EAGAIN, "a quick test starts no process")
        if path.is_relative_to(ROOT):
            pytest.fail(f"a test that starts a process ({path.relative_to(ROOT)}:{caller.f_lineno}) is to be marked slow")
        begin(self, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        yield
