"""`pagecli config`: what the flags of a command are when they are not given, and where each value comes from."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pagecli.cli.flags import completion
from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.settings import (
    apply_settings,
    commands_of,
    ignored_files,
    key_of,
    options_of,
    project_file,
    unknown_variables,
    user_file,
    value_in_effect,
)
from pagecli.cli.terminal.console import Console, exit_code_of, name_value_lines, terminal_width
from pagecli.errors import UsageError
from pagecli.jobs.storage.redaction import redact_values

HIDDEN = ("help", "version", "no_config")


def config(
    context: typer.Context,
    command: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND", help="The command whose flags to show.", autocompletion=completion.configurable_commands
        ),
    ] = "generate",
    show_all: Annotated[bool, typer.Option("--all", help="Show also what is not set, with its default.")] = False,
    as_json: flags.Json = False,
) -> int:
    """Show the settings in effect, and where each comes from.

    A flag wins over PAGECLI_... in the environment, that over pagecli.toml in
    the current directory, that over the user's file
    (~/.config/pagecli/config.toml), that over the default.
    """
    console = Console()

    def run() -> int:
        commands = commands_of(context)
        configurable = [known for known, found in commands.items() if "no_config" in options_of(found)]
        if command not in configurable:
            raise UsageError(f"{command}: no such command, or one without settings", f"one of {', '.join(configurable)}")
        found = shown_settings(context, commands, command)
        for line in (*unknown_variables(commands), *ignored_files()):
            console.warning(line)
        if as_json:
            print(json.dumps({"command": command, "files": _files(), "settings": found}, indent=2, default=str))
        else:
            chosen = {name: item for name, item in found.items() if show_all or item["source"] != "default"}
            _print_table(chosen)
            if not show_all:
                rest = f"{len(found) - len(chosen)} more have their" if chosen else f"nothing is set; {len(found)}"
                console.note(f"{rest} defaults: pagecli config {command} --all")
        return 0

    return exit_code_of(run, console)


def shown_settings(context: typer.Context, commands: Mapping[str, Any], name: str) -> dict[str, Any]:
    """{flag: {value, source, place}} for every flag of the command; secrets are hidden. Raises UsageError, InputError."""
    command = commands[name]
    inner = command.context_class(command, info_name=name, parent=context.find_root(), **command.context_settings)
    apply_settings(inner, commands, command)
    found = {}
    for name, parameter in options_of(command).items():
        if name not in HIDDEN:
            value, source, origin = value_in_effect(inner, parameter)
            found[key_of(parameter)] = {"value": _plain(value), "source": source, "place": origin}
    return redact_values(found)


def _print_table(found: dict[str, Any]) -> None:
    if not found:
        return
    rows = [(name.replace("_", "-"), _text(item["value"]), item["place"] or "default") for name, item in found.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    screen = terminal_width(sys.stdout)
    if screen is None or sum(widths) + 4 <= screen:
        for name, value, origin in rows:
            print(f"{name.ljust(widths[0])}  {value.ljust(widths[1])}  {origin}")
    else:
        print("\n".join(name_value_lines([(name, f"{value} ({origin})") for name, value, origin in rows], sys.stdout)))


def _files() -> dict[str, Any]:
    return {
        name: None if path is None else {"path": os.path.abspath(path), "exists": path.exists()}
        for name, path in (("project", project_file()), ("user", user_file()))
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return json.dumps(value, ensure_ascii=False)
