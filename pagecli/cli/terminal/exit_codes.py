"""From exceptions to exit codes: every way a command can fail ends here, in one line and one code."""

import atexit
import contextlib
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.help import usage_line
from pagecli.errors import ExitCode, PagecliError
from pagecli.jobs.run.stop_signals import StopRequested

NOTES = "pagecli.configuration.notes"  # in a command's context: what is odd about its settings, but no error


def exit_code_of(command: Callable[[], int | None], console: Console) -> int:
    """Runs `command`; returns its exit code, or the code of what it raised after saying it. Closes the console's log."""
    try:
        return int(command() or ExitCode.OK)
    except (Exception, StopRequested, KeyboardInterrupt) as error:
        _say(error, console)
        return exit_code_for(error)
    finally:
        console.close_log()


def exit_code_for(error: BaseException) -> int:
    """The exit code of a command that ends by `error`."""
    if isinstance(error, PagecliError):
        return error.exit_code
    if isinstance(error, StopRequested):
        return 128 + error.signum
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.SIGINT
    if isinstance(error, BrokenPipeError):
        return ExitCode.SIGPIPE
    return ExitCode.USAGE if _is_usage_error(error) else ExitCode.INTERNAL


def _say(error: BaseException, console: Console) -> None:
    if isinstance(error, PagecliError):
        console.failure(error)
    elif _is_usage_error(error):
        for line in getattr(getattr(error, "ctx", None), "meta", {}).get(NOTES, ()):  # such as why a setting was not read
            console.warning(line)
        console.error(without_library_words(error.format_message()), _help_hint(error))  # type: ignore[attr-defined]
    elif not isinstance(error, (StopRequested, KeyboardInterrupt, BrokenPipeError)):
        console.crash(error)


def _is_usage_error(error: BaseException) -> bool:
    """Whether it is one of the command line's own."""
    return hasattr(error, "format_message")


def without_library_words(message: str) -> str:
    """A message of the library that reads flags, without what it says of itself: `Value error, 'int3' is not one of ...`."""
    message = " ".join(message.split()).rstrip(".")
    return re.sub(r"\b(?:Value|Type|Assertion) ?(?:error|failed), ", "", message, flags=re.IGNORECASE).replace(
        "Input should", "should"
    )


def _help_hint(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    if context is None:
        return "see pagecli --help"
    hint = f"see {context.command_path} --help"
    if type(error).__name__ == "MissingParameter":
        hint = f"{usage_line(context.command, context)}; {hint}"
    return hint


def flushed(code: int) -> int:
    """The exit code once stdout is written out: `code`, or SIGPIPE's, without a complaint, if nobody reads it any more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        sys.stdout = None  # type: ignore[assignment]
        return code or ExitCode.SIGPIPE
    return code


def end_process(code: int) -> NoReturn:
    """Ends the process, of which nothing is needed any more, without taking it apart object by object: 0.7 s with torch.

    What libraries registered for the end runs. A profiler or debugger that watches from the same process gets the usual end.
    """
    if sys.gettrace() is not None or sys.getprofile() is not None:
        sys.exit(code)
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None where there is no terminal
        sys.stderr.flush()
    os._exit(code)
