"""The manual page pagecli(1), made from the program itself: `python -m pagecli.cli.terminal.manual` prints it (roff).

Every command with all its flags, as --help=all shows them, and the examples of the short pages.
"""

import os
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import typer

import pagecli
from pagecli.cli.commands import ShortHelp, app
from pagecli.cli.settings import commands_of
from pagecli.cli.terminal.help import sections_of, usage_line

ENVIRONMENT = (
    ("PAGECLI_...", "The value of the flag of that name, as PAGECLI_MAX_TOKENS for --max-tokens; PAGECLI_MODEL for --model."),
    ("PAGECLI_CACHE_DIR", "Where tokenizers and measured rates are kept from one start to the next."),
    (
        "PAGECLI_CPU_ISA",
        "The CPU's kernels: generic, avx2, avx512, avx512bf16, amx; on aarch64 neon, neon_bf16.",
    ),
    ("HF_HOME, HF_HUB_CACHE, HF_TOKEN", "Where downloaded models are kept, and the token for private ones (huggingface_hub)."),
    ("NO_COLOR, COLUMNS", "No colors; the width of tables and help."),
)
LINE = 60  # characters, before what stands for some of them
FILES = (
    ("pagecli.toml", "Settings of the current directory; pagecli config shows what is in effect."),
    ("~/.config/pagecli/config.toml", "The user's settings."),
)


def manual_page() -> str:
    """The page in roff, with the macros of man(7)."""
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="pagecli", **root.context_settings)
    return "\n".join([*_head(root, context), *_commands(context), *_end()]) + "\n"


def _head(root: Any, context: Any) -> Iterator[str]:
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))  # builds that are to be the same set it
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    yield f'.TH PAGECLI 1 {date} "pagecli {pagecli.__version__}" "User Commands"'
    yield ".ad l\n.nh"  # words stay whole
    yield from (".SH NAME", rf"pagecli \- {_text(_first_down(root.help.rstrip('.')))}")
    yield from (".SH SYNOPSIS", ".B pagecli", r"[\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGS\fR ...]")
    yield from (".SH OPTIONS", *_entries(sections_of(root, context)["Options"]))


def _commands(parent: Any) -> Iterator[str]:
    yield ".SH COMMANDS"
    for name, command in commands_of(parent).items():
        context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
        yield f".SS {_text(context.command_path)}"
        yield _text(usage_line(command, context).removeprefix("usage: "))
        for paragraph in (command.help or "").split("\n\n"):
            yield from (".PP", _text(paragraph))
        for title, entries in sections_of(command, context).items():
            yield from (".PP", f".I {_text(title)}", *_entries(entries))
        if isinstance(context.obj, ShortHelp):
            yield from (".PP", ".I Examples", ".PP", ".nf", *map(_line, context.obj.examples), ".fi")
        for paragraph in filter(None, (command.epilog or "").split("\n\n")):
            yield from (".PP", _text(paragraph))


def _end() -> Iterator[str]:
    yield from (".SH ENVIRONMENT", *_entries(ENVIRONMENT))
    yield from (".SH FILES", *_entries(FILES))
    yield from (".SH SEE ALSO", ".BR jq (1),", ".BR parallel (1)")


def _entries(entries: Any) -> Iterator[str]:
    for name, text in entries:
        yield from (".TP", rf"\fB{_line(name)}\fR", _text(text) or r"\&")


def _text(text: str) -> str:
    """Filled text. Lines are short, since roff's readers are people too."""
    return "\n".join(_line(line) for line in textwrap.wrap(" ".join(text.split()), LINE, break_on_hyphens=False))


def _line(text: str) -> str:
    r"""One line as roff prints it: backslashes, hyphens and quotes as they are to be copied, and never a request."""
    for char, escape in (("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("^", r"\(ha"), ("~", r"\(ti")):
        text = text.replace(char, escape)
    return rf"\&{text}" if text.startswith(".") else text


def _first_down(text: str) -> str:
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    print(manual_page(), end="")
