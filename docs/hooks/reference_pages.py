"""The pages of the reference, made from the code while MkDocs builds the site.

Commands and flags come from the command line's own description, exit codes and error codes from their enumerations and the
comments beside the members, events from the module that writes them. A page here therefore cannot lag behind the program.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import report  # noqa: E402
import typer  # noqa: E402

from pagecli.cli.commands import app  # noqa: E402
from pagecli.cli.settings import commands_of, key_of, options_of  # noqa: E402
from pagecli.cli.terminal.help import sections_of  # noqa: E402
from pagecli.errors import ErrorCode, ExitCode  # noqa: E402
from pagecli.jobs.monitoring import progress_json  # noqa: E402
from pagecli.jobs.rows import row  # noqa: E402


def on_files(files: Any, config: Any) -> Any:
    """MkDocs' hook: adds the generated pages to those of the folder."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    files.append(File.generated(config, "performance.md", content=report.page()))
    return files


def pages() -> dict[str, str]:
    """Name of each generated page: its Markdown."""
    return {
        "commands": "\n".join(_commands()),
        "exit-codes": _table("Exit codes", ("exit code", "meaning"), members(ExitCode), "The exit codes are an interface."),
        "error-codes": _table(
            "Error codes", ("error_code", "meaning"), members(ErrorCode), "Values of the column `error_code`."
        ),
        "columns": _table("Columns of the output", ("column", "content"), columns(), _COLUMNS),
        "events": f"# Events of --progress-json\n\n```text\n{inspect.getdoc(progress_json)}\n```\n",
        "settings": "\n".join(_settings()),
    }


_EXIT_CODES = "How a command ended. `pagecli status` and `pagecli doctor` have some of their own: see their help."
_ERROR_CODES = "Values of the column `error_code`; the column `error` has the sentence, with the line of the input."
_COLUMNS = "Written after the input's own columns; an input column of such a name is carried as `input_NAME`."


def members(kind: type[Enum]) -> list[tuple[str, str]]:
    """Each member's value, and the comment beside it in the source, as a table's rows. Raises ValueError for one without."""
    rows = []
    for member in kind:
        found = re.search(rf"^    {member.name} = .*?  # (.+)$", inspect.getsource(kind), re.MULTILINE)
        if found is None:
            raise ValueError(f"{kind.__name__}.{member.name} has no comment that says what it means")
        rows.append((f"`{member.value}`", found[1]))
    return rows


def columns() -> list[tuple[str, str]]:
    """Each column that pagecli writes, and the comment beside its name in the source."""
    source = inspect.getsource(row)
    rows = []
    for name in row.RESULT_COLUMNS:
        found = re.search(rf'^    "{name}",  # (.+)$', source, re.MULTILINE)
        if found is None:
            raise ValueError(f"the column {name} has no comment that says what it holds")
        rows.append((f"`{name}`", found[1]))
    return rows


def _table(title: str, head: tuple[str, str], rows: list[tuple[str, str]], opening: str) -> str:
    lines = [f"# {title}", "", opening, "", f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {left} | {_cell(right)} |" for left, right in rows), ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def contexts() -> Iterator[tuple[str, Any, Any]]:
    """Each command's full name, itself, and the context that it is called in."""
    root = typer.main.get_command(app)
    parent = root.context_class(root, info_name="pagecli")
    for name, command in commands_of(parent).items():
        yield name, command, command.context_class(command, info_name=name, parent=parent, **command.context_settings)


def _commands() -> Iterator[str]:
    yield "# Commands and flags\n\nMade from the program itself; `pagecli COMMAND --help` shows the same.\n"
    for name, command, context in contexts():
        yield f"## pagecli {name}\n"
        yield inspect.cleandoc(command.help or "").split("\f")[0] + "\n"
        for title, entries in sections_of(command, context).items():
            yield f"### {title} {{ #{name.replace(' ', '-')}-{re.sub('[^a-z]+', '-', title.lower()).strip('-')} }}\n"
            yield "| | |\n|---|---|"
            yield from (f"| `{entry.replace('|', chr(92) + '|')}` | {_cell(text)} |" for entry, text in entries)
            yield ""


def _settings() -> Iterator[str]:
    yield "# Settings\n\nThe key of each flag in `pagecli.toml`, and its variable in the environment."
    yield "Where they are read, and which wins: [settings](../guides/settings.md).\n"
    for name, command, _ in contexts():
        found = options_of(command)
        if "no_config" not in found:
            continue
        yield f"## pagecli {name} {{ #settings-{name.replace(' ', '-')} }}\n\n| key | variable |\n|---|---|"
        for option in found.values():
            key = key_of(option)
            yield f"| `{key.replace('_', '-')}` | `PAGECLI_{key.upper().replace('-', '_')}` |"
        yield ""
