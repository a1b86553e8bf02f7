"""What can go wrong, said in one line with a hint, and the exit code each kind ends the program with."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the program; the README documents each."""

    OK = 0  # every row good
    INTERNAL = 1  # a bug in pagecli
    USAGE = 2  # wrong flag or parameter, or an output that already exists
    INPUT = 3  # input unreadable, or output not writable
    MODEL = 4  # model cannot be loaded or does not fit
    ROWS = 5  # finished, but some rows are error rows
    SIGINT = 130
    SIGPIPE = 141  # nobody reads standard output any more
    SIGTERM = 143


class PagecliError(Exception):
    """An error the user can act on: `message` says what and where, `hint` how to mend it."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PagecliError):
    """A flag or parameter that makes no sense."""

    exit_code = ExitCode.USAGE


class InputError(PagecliError):
    """An input that cannot be read, or an output that cannot be written."""

    exit_code = ExitCode.INPUT


class ModelError(PagecliError):
    """A model, tokenizer or template that cannot be loaded, or does not fit in memory."""

    exit_code = ExitCode.MODEL


class RowError(PagecliError):
    """One row that cannot be processed; it becomes an error row and the job goes on."""

    exit_code = ExitCode.ROWS
