"""What a flag is when it is not given: from the environment, else the project's file, else the user's, else its default.

Values are converted and checked as if they had been given as flags; a wrong or unknown one is named with its place.
"""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import typer

from pagecli.cli.settings.files import FLAGS_ONLY, Setting, ignored_files, read_settings
from pagecli.cli.terminal.exit_codes import NOTES, without_library_words
from pagecli.errors import UsageError

PREFIX = "PAGECLI_"
# Read elsewhere: by the kernels, and by the folder of kept tokenizers.
NOT_FLAGS = {"PAGECLI_CPU_ISA", "PAGECLI_NATIVE_MODULE", "PAGECLI_CUDA_MODULE", "PAGECLI_CACHE_DIR"}
PLACES = "pagecli.configuration.places"


def use_configuration(context: typer.Context, no_config: bool) -> bool:
    """Callback of --no-config, which is looked at before every other flag: gives the command its settings as defaults.

    Raises UsageError, InputError.
    """
    if context.resilient_parsing:
        return no_config
    commands = all_commands(context.find_root())
    path = command_path(context)
    settings = effective_settings(commands, path, files=not no_config)
    parameters = options_of(context.command)
    context.default_map = {name: checked(setting, parameters[name], context)[0] for name, setting in settings.items()}
    context.meta[PLACES] = {name: setting.place for name, setting in settings.items()}
    context.meta[NOTES] = [*unknown_variables(commands), *([] if no_config else ignored_files())]
    return no_config


def effective_settings(commands: dict[tuple[str, ...], Any], path: tuple[str, ...], files: bool = True) -> dict[str, Setting]:
    """The settings of the command at `path`, by parameter, the strongest of each. Raises UsageError, InputError."""
    parameters = options_of(commands[path])
    settings: dict[str, Setting] = {}
    for setting in read_settings() if files else ():
        _check_known(setting, commands)
        name = parameter_name(parameters, setting.name)
        if name is not None and setting.table in ((), path):
            settings[name] = setting
    for name, parameter in parameters.items():
        variable = variable_of(parameter)
        if os.environ.get(variable) and name not in ("help", "version", "no_config"):
            settings[name] = Setting(name, os.environ[variable], "environment", variable)
    return settings


def checked(setting: Setting, parameter: Any, context: typer.Context) -> tuple[Any, Any]:
    """The value as it would be given on the command line, and what the flag makes of it. Raises UsageError."""
    value = setting.value
    if setting.source == "environment" and parameter.multiple:
        value = [line for line in value.splitlines() if line]
    is_list = isinstance(value, list)
    if is_list and not parameter.multiple:
        raise UsageError(f"{setting.place}: {_shown(setting)} is a list, and the flag takes one value", "write one value")
    is_text = setting.source == "environment"
    items = [_as_given(setting, item, parameter, is_text) for item in (value if is_list else [value])]
    given = items if parameter.multiple else items[0]
    try:
        return given, parameter.process_value(context, given)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        message = without_library_words(str(getattr(error, "message", error)))
        name = "" if setting.source == "environment" else f": {_shown(setting)}"
        raise UsageError(f"{setting.place}{name} is {setting.value!r}: {message}", _help_hint(context)) from error


def _as_given(setting: Setting, item: Any, parameter: Any, is_text: bool) -> Any:
    """A TOML value as it would stand on the command line: the flag's own conversion decides what it takes."""
    if is_text:
        return item
    if getattr(parameter, "is_flag", False):
        if isinstance(item, bool):
            return item
        raise UsageError(f"{setting.place}: {_shown(setting)} is {item!r}", "write true or false")
    if isinstance(item, bool) or not isinstance(item, (str, int, float)):
        shown = str(item).lower() if isinstance(item, bool) else f"a {type(item).__name__}"
        raise UsageError(
            f"{setting.place}: {_shown(setting)} is {shown}, and the flag takes a value", "write a number or a text"
        )
    return str(item)


def with_place(error: UsageError, context: typer.Context) -> UsageError:
    """`error` about a flag, with where its value comes from if it was not given on the command line."""
    places = context.meta.get(PLACES, {})
    for name, place in places.items():
        if f"--{name.replace('_', '-')} " in f"{error.message} " and was_not_given(context, name):
            return UsageError(f"{error.message} (set by {place})", error.hint)
    return error


def was_not_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is None or source.name != "COMMANDLINE"


def notes(context: typer.Context) -> list[str]:
    """What is odd but no error."""
    return context.meta.get(NOTES, [])


def all_commands(root: Any) -> dict[tuple[str, ...], Any]:
    """Every command of the program by its path: ("generate",), ("profile",), ..."""
    return dict(_walk(root.command, ()))


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    subcommands = getattr(command, "commands", None)
    if path:
        yield path, command
    for name, subcommand in (subcommands or {}).items():
        yield from _walk(subcommand, (*path, name))


def command_path(context: typer.Context) -> tuple[str, ...]:
    path: list[str] = []
    current: Any = context
    while current is not None and current.parent is not None:
        path.insert(0, current.command.name)
        current = current.parent
    return tuple(path)


def options_of(command: Any) -> dict[str, Any]:
    """The command's flags by parameter name."""
    return {parameter.name: parameter for parameter in command.params if parameter.param_type_name == "option"}


def parameter_name(parameters: dict[str, Any], key: str) -> str | None:
    """The parameter that a key means: by its own name, or that of its flag."""
    if key in parameters:
        return key
    flag = "--" + key.replace("_", "-")
    return next((name for name, parameter in parameters.items() if flag in parameter.opts), None)


def key_of(parameter: Any) -> str:
    """The flag as a key of a file, with underscores: its first long form."""
    return next(option for option in parameter.opts if option.startswith("--"))[2:].replace("-", "_")


def variable_of(parameter: Any) -> str:
    return PREFIX + key_of(parameter).upper()


def unknown_variables(commands: dict[tuple[str, ...], Any]) -> list[str]:
    """A line for each variable PAGECLI_... that no flag has."""
    known = {variable_of(option) for command in commands.values() for option in options_of(command).values()} | NOT_FLAGS
    return [
        f"{name} in the environment is no setting of pagecli{_near(name, known)}"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known and not name.startswith("PAGECLI_TEST_")
    ]


def _check_known(setting: Setting, commands: dict[tuple[str, ...], Any]) -> None:
    if setting.table and setting.table not in commands:
        name = ".".join(setting.table)
        near = _near(name, {".".join(path) for path in commands})
        raise UsageError(f"{setting.place}: [{name}] is no command of pagecli{near}", "tables are named like commands")
    targets = [commands[setting.table]] if setting.table else list(commands.values())
    parameters = {name: parameter for command in targets for name, parameter in options_of(command).items()}
    if parameter_name(parameters, setting.name) is not None:
        return
    key = setting.name.replace("_", "-")
    if any(f"--{key}" in parameter.secondary_opts for parameter in parameters.values()):
        raise UsageError(f"{setting.place}: {key} is written the other way round", f"write {key.removeprefix('no-')} = false")
    known = {key_of(parameter).replace("_", "-") for name, parameter in parameters.items() if name not in FLAGS_ONLY}
    where = f"pagecli {' '.join(setting.table)}" if setting.table else "pagecli"
    hint = f"see {where} --help" if setting.table else "the keys are the flags without dashes; see pagecli generate --help"
    raise UsageError(f"{setting.place}: {key} is no setting of {where}{_near(key, known)}", hint)


def _near(name: str, known: set[str]) -> str:
    found = get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _shown(setting: Setting) -> str:
    return setting.name if setting.source == "environment" else setting.name.replace("_", "-")


def _help_hint(context: typer.Context) -> str:
    return f"see {context.command_path} --help"
