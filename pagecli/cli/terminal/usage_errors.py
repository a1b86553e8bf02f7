"""What the command line's own errors say: which flag, where its wrong value stands, how it is used."""

import os
import re
from typing import Any

from pagecli.cli.terminal.help import usage_line

SETTINGS = "pagecli.settings"  # in a command's context: {parameter: what files set it to (settings.files.Setting)}
NOTES = "pagecli.notes"  # what is odd about its settings, but no error


def is_usage_error(error: BaseException) -> bool:
    """Whether it is one of the command line's own."""
    return hasattr(error, "format_message")


def message_of(error: Any) -> str:
    """`Invalid value for '--top-k': ...`; of a value elsewhere, `pagecli.toml:3: top-k is 'many': ...`."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is not None and parameter is not None and type(error).__name__ == "BadParameter":
        origin = _origin_of(context, parameter)
        if origin is not None:
            return f"{origin}: {without_library_words(str(error.message))}"
    return without_library_words(error.format_message())


def hint_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    if context is None:
        return "see pagecli --help"
    hint = f"see {context.command_path} --help"
    if type(error).__name__ == "MissingParameter":
        hint = f"{usage_line(context.command, context)}; {hint}"
    return hint


def without_library_words(message: str) -> str:
    """A message of the library that reads flags, without what it says of itself: `Value error, 'int3' is not one of ...`."""
    message = " ".join(message.split()).rstrip(".")
    message = re.sub(r"\b(?:Value|Type|Assertion) ?(?:error|failed), ", "", message, flags=re.IGNORECASE)
    return message.replace("Input should", "should")


def source_of(context: Any, name: str) -> str:
    """COMMANDLINE, ENVIRONMENT, DEFAULT_MAP (a file, or a variable of several lines) or DEFAULT."""
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else source.name


def variable_of(context: Any, parameter: Any) -> str:
    """The environment's name for the flag."""
    return f"{context.auto_envvar_prefix}_{parameter.name.upper()}"


def _origin_of(context: Any, parameter: Any) -> str | None:
    """`pagecli.toml:3: top-k is 'many'`, `PAGECLI_TOP_K is 'many'`; None of a value on the command line."""
    source = source_of(context, parameter.name)
    if source == "ENVIRONMENT":
        variable = variable_of(context, parameter)
        return f"{variable} is {os.environ.get(variable, '')!r}"
    setting = context.meta.get(SETTINGS, {}).get(parameter.name) if source == "DEFAULT_MAP" else None
    return None if setting is None else f"{setting.shown} is {setting.value!r}"
