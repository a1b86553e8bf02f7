"""The standard streams: text for the person at the terminal on stderr, and stdout kept for rows.

On stderr: errors with a hint, warnings and notes; small tables of names and values. While a job runs, whatever else writes to
file descriptor 1 ends up there too. Closed streams, and ones that cannot take any more, fail nothing but what needs them.

`exit_code_of` runs a command and says why it ended, if by an exception.
"""

import io
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from pagecli.cli.terminal import exit_codes
from pagecli.errors import ExitCode, InputError, PagecliError
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

    def detail(self, message: str | Callable[[], str]) -> None:
        """Only with --verbose, on the screen and in the log; `message` may be what makes it."""
        if self.verbose:
            text = message if isinstance(message, str) else message()
            self._write_log(DEBUG, text)
            self.print_line(_one_line(text))

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
        try:
            _say(error, console)
        except MemoryError:  # there is none to say it with
            with suppress(OSError):
                os.write(2, b"error: the system has no more memory for this process\n")
            return ExitCode.MODEL
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
    elif (failure := exit_codes.system_refusal(error)) is not None:
        console.failure(failure)
    elif not isinstance(error, (StopRequested, KeyboardInterrupt, BrokenPipeError)):
        console.crash(error)


def _to_stderr(line: str) -> None:
    if sys.stderr is not None:  # closed by the parent process
        print(line, file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    """Messages of other libraries may have several lines, control characters out of the input, or a URL with a password."""
    line = "".join(char if char.isprintable() else " " for char in " ".join(redact(text).split()))
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 3 :]}"


LONGEST_LINE = 3000  # characters of a message, which a name out of a damaged file may be part of
MIN_VALUE_WIDTH = 20


def printable(text: str, kept: str = "") -> str:
    """The text with control characters as escapes, but for `kept`: names of files and texts of rows may move a cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text)


def name_value_lines(
    pairs: Sequence[tuple[str, str]], stream: TextIO | None, style: Callable[[str], str] = lambda name: name
) -> list[str]:
    """A line each, more where `stream` is a terminal that the value does not fit; `style` makes a name bold or dim."""
    indent = max((len(name) for name, _ in pairs), default=0) + 2
    width = terminal_width(stream)
    lines = []
    for name, value in pairs:
        first, *more = wrapped(printable(value), None if width is None else max(MIN_VALUE_WIDTH, width - indent))
        lines += [f"{style(name.ljust(indent - 2))}  {first}", *(" " * indent + line for line in more)]
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


NO_STDOUT = -1  # the program was started with standard output closed


class ClosedStdout(io.TextIOBase):
    """Stands for a standard output that was closed when the program started: what needs it fails in one line."""

    def write(self, text: str) -> NoReturn:
        raise stdout_is_closed()

    def isatty(self) -> bool:
        return False


class _LenientFile(io.FileIO):
    """A descriptor whose refusals are left unsaid: a full disk behind stderr must not turn success into failure."""

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left:
                count = super().write(left)
                if count is None:  # it does not wait for room by itself
                    select.select([], [self.fileno()], [])
                    continue
                left = left[count:]
        except (OSError, ValueError):
            pass
        return size


def open_standard_streams() -> None:
    """To be called once, at the start. Descriptors 0 to 2 that are closed lead to /dev/null from now on, so that no file that
    is opened later gets their numbers; what is said goes to a stderr that never fails."""
    closed = [fd for fd in (0, 1, 2) if not _is_open(fd)]
    for fd in closed:
        nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if nowhere != fd:
            os.dup2(nowhere, fd)
            os.close(nowhere)
        os.set_inheritable(fd, True)
    if 1 in closed:
        sys.stdout = ClosedStdout()
    elif isinstance(sys.stdout, io.TextIOWrapper):  # of what its encoding lacks: a bar, a name that is not UTF-8
        sys.stdout.reconfigure(errors="replace")
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    lenient = io.BufferedWriter(_LenientFile(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(lenient, encoding, "backslashreplace", line_buffering=True)


def stdout_is_closed() -> InputError:
    return InputError("standard output is closed", "run it with standard output open, or name a file")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextmanager
def reserved_stdout() -> Iterator[int]:
    """Yields a descriptor of the real stdout, or NO_STDOUT; descriptor 1 itself leads to stderr inside."""
    if isinstance(sys.stdout, ClosedStdout):
        with redirect_stdout(sys.stderr):
            yield NO_STDOUT
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        rows_fd = os.dup(1)
    except OSError:
        yield NO_STDOUT
        return
    try:
        _point_to_stderr(1)
        with redirect_stdout(sys.stderr):
            yield rows_fd
    finally:
        import ctypes

        ctypes.CDLL(None).fflush(None)  # what C code has printed but not yet written
        os.dup2(rows_fd, 1)
        os.close(rows_fd)


def _point_to_stderr(fd: int) -> None:
    try:
        os.dup2(2, fd)
    except OSError:  # stderr is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd)
        os.close(nowhere)


def quieten(verbose: bool, show_downloads: bool, has_log: bool = False) -> None:
    """Sets what the libraries read at import; a variable the user has set stays. `verbose` leaves their warnings on.

    With a log, their warnings go there instead of nowhere.
    """
    variables = {"TOKENIZERS_PARALLELISM": "false"}  # one prompt at a time: nothing to share between threads
    if not show_downloads:
        variables["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if not verbose and not has_log:
        import logging  # slow, and the version does without
        import warnings

        variables |= {"TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1", "HF_HUB_VERBOSITY": "error"}
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
    os.environ.update({name: value for name, value in variables.items() if name not in os.environ})
