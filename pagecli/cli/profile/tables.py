"""Tables for terminals of any width, in which no number, name or flag is ever cut or broken.

A table that is too wide loses its bars, lets its texts follow in lines of their own, breaks its rows' names at commas, and
becomes at last a list: a row's name, and under it each value behind the name of its column.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

SPACING = 2  # between columns
MIN_TEXT_WIDTH = 24  # of a column of text, which is wrapped


@dataclass(frozen=True, slots=True)
class Column:
    """name: "token\\nstates" stands on two lines. The first column of a table names its rows."""

    name: str
    kind: Literal["name", "number", "bar", "text"] = "number"

    @property
    def one_line(self) -> str:
        return self.name.replace("\n", " ")


class FittingTable:
    """A Rich renderable: the first of these layouts that fits. `rows`: a cell a column; None draws a line between rows."""

    def __init__(self, columns: Sequence[Column], rows: "Sequence[Sequence[str | Text] | None]", title: str = "") -> None:
        self._columns = columns
        self._rows = rows
        self._title = title

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        if self._title:
            yield Text(self._title, "bold")
        for short_names in (False, True):
            for kept in (("name", "number", "bar", "text"), ("name", "number", "text"), ("name", "number")):
                if self._width(kept, short_names) <= options.max_width:
                    yield self._grid(kept, short_names)
                    if "text" not in kept:
                        yield from self._texts()
                    return
        yield from self._list(options.max_width)

    def _kept(self, kinds: Sequence[str]) -> list[int]:
        return [at for at, column in enumerate(self._columns) if column.kind in kinds]

    def _width(self, kinds: Sequence[str], short_names: bool) -> int:
        """Columns of the terminal that the layout takes at least, texts wrapped."""
        return sum(self._column_width(at, short_names) + SPACING for at in self._kept(kinds)) - SPACING

    def _column_width(self, at: int, short_names: bool) -> int:
        column = self._columns[at]
        cells = [column.name, *(str(_cell(row[at], column, short_names)) for row in self._rows if row is not None)]
        width = max(len(line) for cell in cells for line in cell.split("\n"))
        if column.kind != "text":
            return width
        return max(min(width, MIN_TEXT_WIDTH), *(len(word) for cell in cells for word in (*cell.split(), "")))

    def _grid(self, kinds: Sequence[str], short_names: bool) -> "Table":
        from rich import box
        from rich.table import Table

        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for at in self._kept(kinds):
            column = self._columns[at]
            justify: Literal["right", "left"] = "right" if column.kind == "number" else "left"
            width = self._column_width(at, short_names)
            grid.add_column(column.name, justify=justify, no_wrap=column.kind != "text", min_width=width)
        for row in self._rows:
            if row is None:
                grid.add_section()
            else:
                grid.add_row(*(_cell(row[at], self._columns[at], short_names) for at in self._kept(kinds)))
        return grid

    def _texts(self) -> "Iterator[RenderableType]":
        """The cells that did not fit beside the numbers."""
        from rich.text import Text

        for row in self._rows:
            texts = [str(cell) for column, cell in zip(self._columns, row or (), strict=False) if column.kind == "text"]
            if row is not None and any(texts):
                yield Text(f"{row[0]}: {', '.join(text for text in texts if text)}", "dim")

    def _list(self, width: int) -> "Iterator[RenderableType]":
        from rich.text import Text

        for row in self._rows:
            if row is None:
                continue
            yield Text(str(row[0]))
            cells = [
                (column, str(cell)) for column, cell in zip(self._columns[1:], row[1:], strict=True) if column.kind != "bar"
            ]
            for line in _joined([f"{column.one_line} {cell}".strip() for column, cell in cells if cell], width - 2):
                yield Text(f"  {line}")


def _joined(parts: Sequence[str], width: int) -> list[str]:
    """The parts behind each other, each whole on a line."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) + 2 > width:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += f", {part}" if lines[-1] else part
    return lines


def _cell(cell: "str | Text", column: Column, short_names: bool) -> "str | Text":
    """The cell; a short name has what follows its comma on a line below."""
    return cell.replace(", ", ",\n  ") if short_names and column.kind == "name" and isinstance(cell, str) else cell


@dataclass(frozen=True, slots=True)
class LinesOrTable:
    """A Rich renderable: `lines` where they fit, else `table`."""

    lines: Sequence[str]
    table: FittingTable

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        if max(map(len, self.lines)) > options.max_width:
            yield self.table
        else:
            yield from (Text(line, no_wrap=True, overflow="ignore") for line in self.lines)


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
