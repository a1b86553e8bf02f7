"""A command to copy from a terminal of any width."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


@dataclass(frozen=True, slots=True)
class CommandLines:
    """What Rich prints of `parts`, each with all that must stay together: one line, or lines that a backslash continues.

    In a file or a pipe it is one line.
    """

    parts: Sequence[str]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        is_screen = console.is_terminal or "COLUMNS" in os.environ
        for line in self.lines(options.max_width if is_screen else sys.maxsize):
            yield Text(line, "bold", no_wrap=True, overflow="ignore")

    def lines(self, width: int) -> list[str]:
        """The command for a terminal of `width` columns."""
        lines = [self.parts[0]]
        for part in self.parts[1:]:
            if len(lines[-1]) + len(part) + 3 <= width:  # a space each side, a backslash
                lines[-1] += f" {part}"
            else:
                lines[-1] += " \\"
                lines.append(f"    {part}")
        return lines
