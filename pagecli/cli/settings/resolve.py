"""What a flag is when it is not given: from the environment, else the project's file, else the user's, else its default.

Files and environment are click's own default_map and auto_envvar_prefix: values are converted and checked as if they had been
given as flags. What is added here: keys like flags, one table a command, origins in messages, "did you mean".
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import typer

from pagecli.cli.settings.files import FLAGS_ONLY, Setting, ignored_files, read_settings
from pagecli.cli.terminal.exit_codes import NOTES, SETTINGS, hint_of, is_usage_error, message_of, source_of, variable_of
from pagecli.errors import UsageError

PREFIX = "PAGECLI_"
# Read elsewhere: by the kernels, and by the folder of kept tokenizers.
NOT_FLAGS = {"PAGECLI_CPU_ISA", "PAGECLI_NATIVE_MODULE", "PAGECLI_CUDA_MODULE", "PAGECLI_CACHE_DIR"}


def use_configuration(context: typer.Context, no_config: bool) -> bool:
    """Callback of --no-config, which is looked at before every other flag: gives the command its settings as click's own map.

    The environment is click's too (auto_envvar_prefix), and wins over the map. Raises UsageError, InputError.
    """
    if not context.resilient_parsing:
        commands = commands_of(context)
        apply_settings(context, commands, context.command, files=not no_config)
        context.meta[NOTES] = [*unknown_variables(commands, context.command), *([] if no_config else ignored_files())]
    return no_config


def apply_settings(context: typer.Context, commands: Mapping[str, Any], command: Any, files: bool = True) -> None:
    """Makes what files, and variables of several lines, set for `command` its defaults. Raises UsageError, InputError.

    The other commands are looked up, and so imported, only for a setting that this one does not have.
    """
    parameters = options_of(command)
    settings: dict[str, Setting] = {}
    for setting in read_settings() if files else ():
        name = parameter_name(parameters, setting.name)
        if name is not None and setting.table in ("", command.name):
            settings[name] = _of_its_type(setting, parameters[name])
        else:
            _check_known(setting, commands)
    for name, parameter in parameters.items():
        variable = PREFIX + name.upper()
        if parameter.multiple and (text := os.environ.get(variable)):
            lines = [line for line in text.splitlines() if line]
            settings[name] = Setting(name, lines, "environment", variable)
    context.meta[SETTINGS] = settings
    context.default_map = {name: setting.value for name, setting in settings.items()}


def _of_its_type(setting: Setting, parameter: Any) -> Setting:
    """The value as it would stand on the command line: the flag's own conversion decides what it takes. Raises UsageError."""
    is_list = isinstance(setting.value, list)
    if is_list and not parameter.multiple:
        raise UsageError(f"{setting.shown} is a list, and the flag takes one value", "write one value")
    items = [_as_given(setting, item, parameter) for item in (setting.value if is_list else [setting.value])]
    return replace(setting, value=items if parameter.multiple else items[0])


def _as_given(setting: Setting, item: Any, parameter: Any) -> Any:
    if getattr(parameter, "is_flag", False):
        if isinstance(item, bool):
            return item
        raise UsageError(f"{setting.shown} is {item!r}", "write true or false")
    if isinstance(item, bool) or not isinstance(item, (str, int, float)):
        shown = str(item).lower() if isinstance(item, bool) else f"a {type(item).__name__}"
        raise UsageError(f"{setting.shown} is {shown}, and the flag takes a value", "write a number or a text")
    return item


def value_in_effect(context: typer.Context, parameter: Any) -> tuple[Any, str, str | None]:
    """(value, source, origin) of a flag that is not given. Raises UsageError if it is set to what the flag does not take."""
    raw, source = parameter.consume_value(context, {})
    context.set_parameter_source(parameter.name, source)
    kind = source_of(context, parameter.name)
    if kind == "DEFAULT":
        return raw, "default", None
    try:
        value = parameter.process_value(context, raw)
    except Exception as error:
        if not is_usage_error(error):
            raise
        raise UsageError(message_of(error), hint_of(error)) from error
    if kind == "ENVIRONMENT":
        return value, "environment", variable_of(context, parameter)
    setting = context.meta[SETTINGS][parameter.name]
    return value, setting.source, setting.origin


def with_origin(error: UsageError, context: typer.Context) -> UsageError:
    """`error` about a flag, with where its value comes from if it was not given on the command line."""
    for name, parameter in options_of(context.command).items():
        if f"--{name.replace('_', '-')} " in f"{error.message} ":
            origin = _origin(context, parameter)
            return error if origin is None else UsageError(f"{error.message} (set by {origin})", error.hint)
    return error


def _origin(context: typer.Context, parameter: Any) -> str | None:
    kind = source_of(context, parameter.name)
    if kind == "ENVIRONMENT":
        return variable_of(context, parameter)
    return context.meta[SETTINGS][parameter.name].origin if kind == "DEFAULT_MAP" else None


def notes(context: typer.Context) -> list[str]:
    """What is odd but no error."""
    return context.meta.get(NOTES, [])


def commands_of(context: typer.Context) -> Mapping[str, Any]:
    """Every command of the program by its name; one is imported when it is looked up."""
    root: Any = context.find_root().command
    commands: Mapping[str, Any] = root.commands
    return commands


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


def unknown_variables(commands: Mapping[str, Any], command: Any = None) -> list[str]:
    """A line for each variable PAGECLI_... that no flag has; those of `command` are looked up first."""
    given = {name for name in os.environ if name.startswith(PREFIX) and not name.startswith("PAGECLI_TEST_")} - NOT_FLAGS
    unknown = given - (set() if command is None else _variables_of(command))
    if not unknown:
        return []
    known = NOT_FLAGS.union(*map(_variables_of, commands.values()))
    return [f"{name} in the environment is no setting of pagecli{_near(name, known)}" for name in sorted(unknown - known)]


def _variables_of(command: Any) -> set[str]:
    return {PREFIX + key_of(option).upper() for option in options_of(command).values()}


def _check_known(setting: Setting, commands: Mapping[str, Any]) -> None:
    if setting.table and setting.table not in commands:
        near = _near(setting.table, set(commands))
        raise UsageError(
            f"{setting.origin}: [{setting.table}] is no command of pagecli{near}", "tables are named like commands"
        )
    targets = [commands[setting.table]] if setting.table else list(commands.values())
    parameters = {name: parameter for command in targets for name, parameter in options_of(command).items()}
    if parameter_name(parameters, setting.name) is not None:
        return
    key = setting.name.replace("_", "-")
    if any(f"--{key}" in parameter.secondary_opts for parameter in parameters.values()):
        raise UsageError(f"{setting.origin}: {key} is written the other way round", f"write {key.removeprefix('no-')} = false")
    known = {key_of(parameter).replace("_", "-") for name, parameter in parameters.items() if name not in FLAGS_ONLY}
    where = f"pagecli {setting.table}" if setting.table else "pagecli"
    hint = f"see {where} --help" if setting.table else "the keys are the flags without dashes; see pagecli generate --help"
    raise UsageError(f"{setting.origin}: {key} is no setting of {where}{_near(key, known)}", hint)


def _near(name: str, known: set[str]) -> str:
    found = get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else ""
