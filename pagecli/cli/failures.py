"""From exceptions to exit codes: every way a command can fail ends here, in one line and one code."""

import sys
from collections.abc import Callable

from pagecli.cli.console import Console
from pagecli.errors import ExitCode, PagecliError
from pagecli.jobs.stop_signals import StopRequested


def exit_code_of(command: Callable[[], int | None], console: Console) -> int:
    """Runs `command`; returns its exit code, or the code of what it raised after saying it."""
    try:
        return int(command() or ExitCode.OK)
    except PagecliError as error:
        console.failure(error)
        return error.exit_code
    except StopRequested as request:
        return 128 + request.signum
    except KeyboardInterrupt:
        return ExitCode.SIGINT
    except BrokenPipeError:
        return ExitCode.SIGPIPE
    except Exception as error:
        if hasattr(error, "format_message"):  # the command line's own usage errors
            console.error(error.format_message().rstrip("."), _help_hint(error))
            return ExitCode.USAGE
        console.crash(error)
        return ExitCode.INTERNAL


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "pagecli"
    return f"see {command} --help"


def leave(code: int) -> None:
    """Ends the process with `code`, without a complaint if nobody reads stdout any more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        sys.stdout = None  # type: ignore[assignment]
        code = code or ExitCode.SIGPIPE
    sys.exit(code)
