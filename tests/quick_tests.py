"""What keeps the quick tests quick: one that starts a process of its own fails, however fast the machine is."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The process in which templates of conversations are rendered: a part of reading any prompt.
ALLOWED = ROOT / "pagecli" / "model" / "tokenizer" / "templates"


@contextmanager
def no_processes() -> Iterator[None]:
    """Within it a process that a test, or pagecli for it, would start is a failure that names the mark."""
    begin = subprocess.Popen.__init__

    def refuse(self: subprocess.Popen, *args: object, **settings: object) -> None:
        caller = sys._getframe(1)
        while caller.f_code.co_filename == subprocess.__file__ and caller.f_back is not None:
            caller = caller.f_back
        path = Path(caller.f_code.co_filename)
        if path.is_relative_to(ROOT) and not path.is_relative_to(ALLOWED):
            pytest.fail(f"a test that starts a process ({path.relative_to(ROOT)}:{caller.f_lineno}) is to be marked slow")
        begin(self, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        yield
