"""Small tables of names and values, as wide as they are or as the terminal is: values are broken between words only."""

import shutil
import textwrap
from collections.abc import Callable, Iterable
from typing import TextIO

MIN_VALUE_WIDTH = 20


def name_value_lines(
    pairs: Iterable[tuple[str, str]], stream: TextIO | None, style: Callable[[str], str] = lambda name: name
) -> list[str]:
    """A line each, more where `stream` is a terminal that the value does not fit; `style` makes a name bold or dim."""
    pairs = list(pairs)
    indent = max((len(name) for name, _ in pairs), default=0) + 2
    width = terminal_width(stream)
    lines = []
    for name, value in pairs:
        first, *more = wrapped(value, None if width is None else max(MIN_VALUE_WIDTH, width - indent))
        lines.append(f"{style(name.ljust(indent - 2))}  {first}")
        lines += [" " * indent + line for line in more]
    return lines


def wrapped(text: str, width: int | None) -> list[str]:
    """Lines of whole words, one at least; None: one line."""
    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]


def terminal_width(stream: TextIO | None) -> int | None:
    """Columns of the terminal that `stream` is; None of a file or a pipe, whose lines stay whole."""
    return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None
