"""Text for the person at the terminal: errors with a hint, warnings and notes on stderr; small tables of names and values.

`exit_code_of` runs a command and says why it ended, if by an exception.
"""

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TextIO

from pagecli.cli.terminal import exit_codes
from pagecli.errors import ExitCode, PagecliError
from pagecli.jobs.run.stop_signals import StopRequested
from pagecli.jobs.storage.redaction import redact

if TYPE_CHECKING:
    from pagecli.jobs.monitoring.run_log import RunLog

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # as in logging, which is slow to import for an error message
ERASE_LINE = "\x1b[K"  # from the cursor to the end of the line
RED, GREEN, YELLOW, CYAN = "31", "32", "33", "36"


class Console:
    """stderr with three levels: quiet (errors only), normal, verbose (details and tracebacks)."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.has_color = self.is_terminal and not os.environ.get("NO_COLOR")
        self.print_line: Callable[[str], None] = _to_stderr  # a progress bar puts itself in between while it is shown
        self.log: RunLog | None = None  # gets all that is said, whatever the level

    def error(self, message: str, hint: str | None = None) -> None:
        self._write_log(ERROR, f"{message} (hint: {hint})" if hint else message)
        self.print_line(f"{self.colored('error:', RED)} {_one_line(message)}")
        if hint:
            self.print_line(f"{self.colored('hint:', CYAN)} {_one_line(hint)}")

    def warning(self, message: str) -> None:
        self._write_log(WARNING, message)
        if not self.quiet:
            self.print_line(f"{self.colored('warning:', YELLOW)} {_one_line(message)}")

    def note(self, message: str) -> None:
        """Something the user should know, in every level but quiet."""
        self._write_log(INFO, message)
        self.passing_note(message)

    def passing_note(self, message: str) -> None:
        """How far the job is: of no interest later, so that the log, which has its own clock, does not get it."""
        if not self.quiet:
            self.print_line(_one_line(message))

    def transient(self, text: str) -> None:
        """A word on a terminal that any line after it replaces: it is there while modules are imported."""
        if self.is_terminal and not self.quiet:
            sys.stderr.write(f"{text}\r")
            sys.stderr.flush()
            self.print_line = lambda line: _to_stderr(f"{ERASE_LINE}{line}")

    def end_transient(self) -> None:
        """Before anything else than this console writes to the terminal."""
        if self.print_line is not _to_stderr and self.is_terminal:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()

    def detail(self, message: str) -> None:
        self._write_log(DEBUG, message)
        if self.verbose:
            self.print_line(_one_line(message))

    def failure(self, error: PagecliError) -> None:
        self.error(error.message, error.hint)
        self._traceback(error)

    def crash(self, error: BaseException) -> None:
        """Report an unexpected exception: a bug in pagecli."""
        hint = None if self.verbose else "run it again with -v for the traceback, and report it"
        self.error(f"internal error: {type(error).__name__}: {error}", hint)
        self._traceback(error)
        if self.log is not None:
            self.log.write(ERROR, "traceback of the internal error", error=error)

    def log_replaces_lines(self) -> None:
        """stderr is the log: what is said appears there once, as the log writes it, and nothing that is only shown."""
        self.print_line = lambda line: None
        self.is_terminal = self.has_color = False

    def close_log(self) -> None:
        if self.log is not None:
            self.log.close()
            self.log = None

    def _traceback(self, error: BaseException) -> None:
        if self.verbose:
            import traceback

            self.print_line(redact("".join(traceback.format_exception(error)).rstrip()))

    def _write_log(self, level: int, message: str) -> None:
        if self.log is not None:
            self.log.write(level, message)

    def dimmed(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self.has_color else text

    def colored(self, text: str, color: str) -> str:
        """`text` in bold `color` where stderr shows colors."""
        return f"\x1b[1;{color}m{text}\x1b[0m" if self.has_color else text


def exit_code_of(command: Callable[[], int | None], console: Console) -> int:
    """Runs `command`; returns its exit code, or the code of what it raised after saying it. Closes the console's log."""
    try:
        return int(command() or ExitCode.OK)
    except (Exception, StopRequested, KeyboardInterrupt) as error:
        if isinstance(error, StopRequested):
            from pagecli.jobs.storage.atomic_file import remove_temporaries

            remove_temporaries()
        _say(error, console)
        return exit_codes.exit_code_for(error)
    finally:
        console.end_transient()
        console.close_log()


def _say(error: BaseException, console: Console) -> None:
    if isinstance(error, PagecliError):
        console.failure(error)
    elif exit_codes.is_usage_error(error):
        for line in getattr(getattr(error, "ctx", None), "meta", {}).get(exit_codes.NOTES, ()):  # why a setting was not read
            console.warning(line)
        console.error(exit_codes.message_of(error), exit_codes.hint_of(error))
    elif (failure := exit_codes.file_failure(error)) is not None:
        console.failure(failure)
    elif not isinstance(error, (StopRequested, KeyboardInterrupt, BrokenPipeError)):
        console.crash(error)


def _to_stderr(line: str) -> None:
    if sys.stderr is not None:  # closed by the parent process
        print(line, file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    """Messages of other libraries may have several lines, control characters out of the input, or a URL with a password."""
    return "".join(char if char.isprintable() else " " for char in " ".join(redact(text).split()))


MIN_VALUE_WIDTH = 20


def name_value_lines(
    pairs: Iterable[tuple[str, str]], stream: TextIO | None, style: Callable[[str], str] = lambda name: name
) -> list[str]:
    """A line each, more where `stream` is a terminal that the value does not fit; `style` makes a name bold or dim."""
    pairs = list(pairs)
    indent = max((len(name) for name, _ in pairs), default=0) + 2
    width = terminal_width(stream)
    lines = []
    for name, value in pairs:
        first, *more = wrapped(value, None if width is None else max(MIN_VALUE_WIDTH, width - indent))
        lines.append(f"{style(name.ljust(indent - 2))}  {first}")
        lines += [" " * indent + line for line in more]
    return lines


def wrapped(text: str, width: int | None) -> list[str]:
    """Lines of whole words, one at least; None: one line."""
    if width is None or len(text) <= width:
        return [text]
    import textwrap

    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]


def terminal_width(stream: TextIO | None) -> int | None:
    """Columns of the terminal that `stream` is; None of a file or a pipe, whose lines stay whole."""
    if stream is None or not stream.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns
