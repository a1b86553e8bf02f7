"""What a flag is when it is not given: from the environment, else the project's file, else the user's, else its default.

A file (pagecli.toml in the current directory, or the user's own) has flags without their dashes, for every command that has
them, or in a table for one command:

    model = "smollm2-135m"
    [generate]
    max-tokens = 64

Files and environment are click's own default_map and auto_envvar_prefix: values are converted and checked as if they had been
given as flags. What is added here: keys like flags, one table a command, origins in messages, "did you mean".
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from pagecli.cli.terminal.exit_codes import NOTES, SETTINGS, hint_of, is_usage_error, message_of, source_of, variable_of
from pagecli.core.file_targets import NamedPath
from pagecli.errors import InputError, UsageError

PROJECT_FILE = "pagecli.toml"
MAX_FILE_BYTES = 1 << 20
FLAGS_ONLY = {
    "overwrite": "it would throw away results in every run",
    "restart": "it would throw away finished rows in every run",
    "no_config": "it says that this file is not to be read",
    "help": "it is no setting",
    "version": "it is no setting",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as TOML has it, or the lines of a variable. `table` is the command it is meant for; "": all."""

    name: str  # as a parameter: with underscores
    value: Any
    source: str  # project, user, environment
    origin: str  # pagecli.toml:3, or the variable's name
    table: str = ""

    @property
    def shown(self) -> str:
        """`pagecli.toml:3: max-tokens`, or the variable's name."""
        return self.origin if self.source == "environment" else f"{self.origin}: {self.name.replace('_', '-')}"


def project_file() -> Path:
    return Path(PROJECT_FILE)


def user_file() -> Path | None:
    """$XDG_CONFIG_HOME/pagecli/config.toml, by default under ~/.config; None for a user without a home."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # the specification says to ignore a relative one
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".config")
    return Path(base) / "pagecli" / "config.toml"


def settings_files() -> Iterator[NamedPath]:
    """Both files, which need not be there, as messages name them."""
    return (NamedPath("settings,", str(path)) for _, path in _files())


def read_settings() -> list[Setting]:
    """All settings of both files, the user's first, without those of foreign files. Raises InputError for an unreadable file,
    UsageError for a wrong one."""
    return [setting for source, path in _files_there() if foreign_reason(path) is None for setting in _read(source, path)]


def ignored_files() -> list[str]:
    """A line for each file that is left unread because another user wrote it, or could have."""
    reasons = [(path, foreign_reason(path)) for _, path in _files_there()]
    return [f"{path} is ignored: {reason}" for path, reason in reasons if reason]


def foreign_reason(path: Path) -> str | None:
    """Why the file is not this user's alone: it could name a model to load and files to write. None of one that is, or is not
    there. Both the file and a link to it count."""
    for read in (os.lstat, os.stat):
        try:
            found = read(path)
        except OSError:
            return None
        if found.st_uid not in (os.geteuid(), 0):
            return "it belongs to another user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(found.st_mode):
            return "others than its owner may write to it"
    return None


def _files() -> list[tuple[str, Path]]:
    return [(source, path) for source, path in (("user", user_file()), ("project", project_file())) if path is not None]


def _files_there() -> Iterator[tuple[str, Path]]:
    """Without those that are known not to be there."""
    for source, path in _files():
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # reading it says why
            pass
        yield source, path


def _read(source: str, path: Path) -> list[Setting]:
    text = _content(path)
    if text is None:
        return []
    import tomllib  # help does without

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_syntax_message(path, text, str(error)), "see https://toml.io, or use --no-config") from error
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply", "a file has flags, and tables of flags") from error
    lines = KeyLines(text)
    settings = [
        Setting(name.replace("-", "_"), value, source, _origin(path, lines.find(table, name)), ".".join(table))
        for table, name, value in _flattened(values, ())
    ]
    for setting in settings:
        _check_allowed(setting)
    return settings


def _flattened(values: dict[str, Any], table: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """(table, key, value) of everything; the keys outside of tables first, so that those in tables win."""
    yield from ((table, name, value) for name, value in values.items() if not isinstance(value, dict))
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, (*table, name))


def _content(path: Path) -> str | None:
    """None without a file, or if another user put one in its place just now. Raises InputError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    found = os.fstat(fd)
    if found.st_uid not in (os.geteuid(), 0):
        os.close(fd)
        return None
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise _unreadable(path, "not a plain file")
    with os.fdopen(fd, "rb") as file:
        if found.st_size > MAX_FILE_BYTES:
            raise _unreadable(path, f"larger than {MAX_FILE_BYTES:,} bytes")
        try:
            text = file.read(MAX_FILE_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)) from error
    return text


def _check_allowed(setting: Setting) -> None:
    reason = FLAGS_ONLY.get(setting.name)
    if reason is not None:
        flag = setting.name.replace("_", "-")
        raise UsageError(f"{setting.origin}: {flag} is a flag only: {reason}", f"remove the line; give --{flag} by hand")


class KeyLines:
    """Finds the line of a key (TOML's parser does not). Right for a key on a line of its own, None for other ways."""

    _HEADER = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
    _KEY = re.compile(r"^\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := self._HEADER.match(line):
                table = _parts(header[1])
            elif key := self._KEY.match(line):
                self._lines.setdefault((*table, *_parts(key[1])), number)

    def find(self, table: tuple[str, ...], name: str) -> int | None:
        return self._lines.get((*table, name))


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _origin(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}:{line}"


def _syntax_message(path: Path, text: str, message: str) -> str:
    """`pagecli.toml:3: Invalid value` from tomllib's `Invalid value (at line 3, column 5)`."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message)
    if found is None:
        return f"{path}: {message}"
    return f"{path}:{found[2] or len(text.splitlines())}: {found[1]}"


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}", "mend it, or use --no-config")


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
            origin = _origin_in_effect(context, parameter)
            return error if origin is None else UsageError(f"{error.message} (set by {origin})", error.hint)
    return error


def _origin_in_effect(context: typer.Context, parameter: Any) -> str | None:
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
    if given and command is not None:
        given -= _variables_of(command)
    if not given:
        return []
    known = NOT_FLAGS.union(*map(_variables_of, commands.values()))
    said = "in the environment is no setting of pagecli"
    return [f"{name} {said}{_near(name, known, PREFIX)}" for name in sorted(given - known)]


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


def _near(name: str, known: set[str], prefix: str = "") -> str:
    """The names of `known` that are like this one. `prefix`: what all of them begin with, which makes none of them nearer."""
    found = get_close_matches(name.removeprefix(prefix), [each.removeprefix(prefix) for each in sorted(known)], n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(prefix + each for each in found)}?" if found else ""
