"""The entry point of the program `pagecli`. What a command needs is imported by the command, so that the others are quick."""

import atexit
import contextlib
import os
import sys
from typing import NoReturn

import pagecli
from pagecli.cli.terminal.console import Console, exit_code_of, open_standard_streams
from pagecli.errors import ExitCode

STANDARD_OUTPUT = "standard output"


def main(args: list[str] | None = None) -> None:
    """Runs the program and ends the process with its exit code; given `args`, raises SystemExit instead."""
    if args is None:
        open_standard_streams()
    arguments = sys.argv[1:] if args is None else args
    console = Console()
    code = _flushed(exit_code_of(lambda: _run(arguments), console), console)
    if args is None:
        _end_process(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int | None:
    if arguments in (["--version"], ["-V"]):  # 20 ms instead of 60: scripts ask for it
        print(f"pagecli {pagecli.__version__}")
        return None
    from pagecli.cli.commands import app

    try:
        exit_code: int | None = app(args=arguments, prog_name="pagecli", standalone_mode=False)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # of help pages, which typer makes exit code 1 of
            raise ended.__context__ from None
        raise
    return exit_code


def _flushed(code: int, console: Console) -> int:
    """The exit code once stdout is written out: `code`; SIGPIPE's, without a message, if its reader has closed it; INPUT's if
    it takes no more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        sys.stdout = None
        return code or ExitCode.SIGPIPE
    except OSError as error:
        sys.stdout = None
        from pagecli.jobs.storage.atomic_file import not_writable  # help does without

        console.failure(not_writable(STANDARD_OUTPUT, error))
        return ExitCode.INPUT
    return code


def _end_process(code: int) -> NoReturn:
    """Ends the process, of which nothing is needed any more, without taking it apart object by object: 0.7 s with torch.

    What libraries registered for the end runs. A profiler or debugger that watches from the same process gets the usual end.
    """
    if sys.gettrace() is not None or sys.getprofile() is not None:
        sys.exit(code)
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None where there is no terminal
        sys.stderr.flush()
    os._exit(code)
