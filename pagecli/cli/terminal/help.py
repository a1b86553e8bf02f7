"""Help pages as plain text: sections of flags, wrapped to the terminal's width between words only.

A command of many flags shows a short page (its most used flags, examples, the names of the groups); `--help=GROUP` shows one
group and `--help=all` everything. A command without arguments shows the same short page on stderr, with exit code 2.

Instead of Rich's help, which is slow to import and shortens flags to `--max-batch-toke…` on a narrow terminal, and of click's,
which wraps at hyphens: a flag's name and a number are always whole.
"""

import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from pagecli.errors import UsageError

MIN_WIDTH, MAX_WIDTH = 40, 100
HELP_COLUMN = 30  # help begins in it, or on the next line after a longer flag
TYPE_NAMES = {"int": "N", "int range": "N", "float": "X", "float range": "X", "str": "TEXT", "path": "FILE"}


ALL = "all"


def help_page(command: Any, context: Any, group: str = "") -> str:
    """The page for a terminal as wide as this one, or as COLUMNS says. `group`: "", `all`, or the name of a group of flags."""
    width = max(MIN_WIDTH, min(shutil.get_terminal_size().columns, MAX_WIDTH))
    sections = sections_of(command, context)
    short = None if group else getattr(context, "obj", None)  # a ShortHelp
    if group not in ("", ALL):
        sections = {title: entries for title, entries in sections.items() if group_name(title) == group}
    elif short is not None:
        sections = _most_used(sections, short.most_used)
    lines = [usage_line(command, context), ""]
    for paragraph in (command.help or "").split("\n\n")[: None if group == ALL or short is None else 1]:
        lines += [*_wrapped(paragraph, width), ""]
    for title, entries in sections.items():
        lines.append(f"{title}:")
        for name, text in entries:
            lines += _entry(name, text, width)
        lines.append("")
    if short is not None:
        lines += ["Examples:", *(line for example in short.examples for line in _example(example, width)), ""]
        groups = ", ".join(group_name(title) for title in sections_of(command, context))
        lines += _wrapped(f"All flags: --help={ALL}, or --help=GROUP with one of: {groups}.", width)
    else:
        for paragraph in (command.epilog or "").split("\n\n"):  # an indented one is a line to copy
            lines += [paragraph] if paragraph.startswith("  ") else _wrapped(paragraph, width)
    return "\n".join(lines).rstrip()


def group_page(command: Any, context: Any, group: str) -> str:
    """The page of --help=GROUP. Raises UsageError."""
    groups = [group_name(title) for title in sections_of(command, context)]
    if group not in (ALL, *groups):
        raise UsageError(f"--help={group}: no such group of flags", f"one of {', '.join((ALL, *groups))}")
    return help_page(command, context, group)


def group_name(title: str) -> str:
    """`input-and-output` of `Input and output`: the word that --help= takes."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _most_used(sections: dict[str, list[tuple[str, str]]], names: tuple[str, ...]) -> dict[str, list[tuple[str, str]]]:
    """The arguments, and the flags of those names in that order."""
    entries = [entry for title, found in sections.items() if title != "Arguments" for entry in found]
    by_flag = {flag: entry for entry in entries for flag in entry[0].replace(",", " ").split() if flag.startswith("-")}
    arguments = {title: found for title, found in sections.items() if title == "Arguments"}
    return arguments | {"Most used": [by_flag[name] for name in names]}


def usage_line(command: Any, context: Any) -> str:
    """`usage: pagecli generate --model NAME [OPTIONS] INPUT OUTPUT`."""
    pieces = [context.command_path]
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.required:
            pieces.append(f"{parameter.opts[0]} {parameter.metavar or 'VALUE'}")
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument" and not parameter.hidden]
    pieces += ["[OPTIONS]", *(_argument_name(argument, in_usage=True) for argument in arguments)]
    if getattr(command, "commands", None):
        pieces.append("COMMAND [ARGS]...")
    return f"usage: {' '.join(pieces)}"


def _argument_name(argument: Any, in_usage: bool = False) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required or not in_usage else f"[{name}]"


def sections_of(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """title: (name, text) of each entry, in the order of declaration; what has no section comes last."""
    found: dict[str, list[tuple[str, str]]] = {}
    rest: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        name, text = _with_plain_type(record[0]), _with_plain_bounds(" ".join(record[1].split()))
        if parameter.param_type_name == "argument":
            found.setdefault("Arguments", []).append((_argument_name(parameter), text))
        elif panel := getattr(parameter, "rich_help_panel", None):
            found.setdefault(panel, []).append((name, text))
        else:
            rest.append((name, text))
    if rest:
        found["Options"] = rest
    if summaries := getattr(command, "summaries", None):
        found["Commands"] = list(summaries().items())
    return found


def _with_plain_type(name: str) -> str:
    """`--limit N` of `--limit <int range>`, `--order input|completion` of `--order <input|completion>`."""
    return re.sub(r"<([^<>]*)>", lambda found: TYPE_NAMES.get(found[1], found[1]), name)


_BOUNDS = (
    (r"([\d.]+)<=x<=([\d.]+)", r"\1 to \2"),
    (r"([\d.]+)<x<=([\d.]+)", r"above \1, at most \2"),
    (r"\bx<=([\d.]+)", r"at most \1"),
    (r"\bx>=([\d.]+)", r"at least \1"),
    (r"\bx>([\d.]+)", r"above \1"),
)


def _with_plain_bounds(text: str) -> str:
    """`[at least 1]` of `[x>=1]`, `[1 to 256]` of `[1<=x<=256]`."""
    for pattern, words in _BOUNDS:
        text = re.sub(pattern, words, text)
    return text


def _entry(name: str, text: str, width: int) -> Iterator[str]:
    """The lines of one flag. A list of choices too long for a line stands in front of the text."""
    indent = min(HELP_COLUMN, width // 3)
    if len(name) + 2 > width and " " in name:
        name, choices = name.rsplit(" ", 1)
        text = f"{choices.replace('|', ', ')}: {text}"
    lines = _wrapped(text, width - indent) or [""]
    if len(name) + 4 <= indent:
        yield f"  {name}".ljust(indent) + lines.pop(0)
    else:
        yield f"  {name}"
    yield from (" " * indent + line for line in lines if line)


def _example(command: str, width: int) -> list[str]:
    """A line to copy, continued by backslashes where it is too long: before a flag or a pipe, never inside of a word."""
    from pagecli.cli.profile.tables import CommandLines

    return [f"  {line}" for line in CommandLines(re.split(r" (?=--?[a-z]|\|)", command)).lines(width - 2)]


def _wrapped(text: str, width: int) -> list[str]:
    """Broken between words only; lines of a paragraph are joined."""
    return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)
