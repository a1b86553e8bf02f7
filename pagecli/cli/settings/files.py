"""Settings out of pagecli.toml in the current directory and the user's own file, each with the origin it stands at.

A file has flags without their dashes, for every command that has them, or in a table for one command:

    model = "smollm2-135m"
    [generate]
    max-tokens = 64
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def read_settings() -> list[Setting]:
    """All settings of both files, the user's first, without those of foreign files. Raises InputError for an unreadable file,
    UsageError for a wrong one."""
    return [setting for source, path in _files() if foreign_reason(path) is None for setting in _read(source, path)]


def ignored_files() -> list[str]:
    """A line for each file that is left unread because another user wrote it, or could have."""
    reasons = [(path, foreign_reason(path)) for _, path in _files()]
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
