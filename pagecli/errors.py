"""Errors the user can act on, each one line with a hint, and the exit code that each kind ends the program with."""

import os
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of the program; the comments document them."""

    OK = 0  # every row good
    INTERNAL = 1  # a bug in pagecli
    USAGE = 2  # wrong flag or parameter, or an output that already exists
    INPUT = 3  # input unreadable, or output not writable
    MODEL = 4  # model cannot be loaded or does not fit
    ROWS = 5  # finished, but some rows are error rows
    SIGHUP = 129  # the terminal was closed; finished rows are kept, the same command resumes
    SIGINT = 130  # Ctrl-C; finished rows are kept, the same command resumes
    SIGPIPE = 141  # the reader of standard output has closed it
    SIGTERM = 143  # asked to end; finished rows are kept, the same command resumes


class ErrorCode(StrEnum):
    """Why a row is an error row: the column `error_code`, beside the sentence in `error`. The comments document them."""

    INVALID_JSON = "invalid_json"  # a line that is no JSON
    INVALID_CSV = "invalid_csv"  # a record with too many or too few fields, or broken quotes
    INVALID_ENCODING = "invalid_encoding"  # not UTF-8, or half of a surrogate pair
    INVALID_TYPE = "invalid_type"  # JSON, but not an object; a prompt that is not text; messages that do not form a chat
    ROW_TOO_LARGE = "row_too_large"  # more bytes than --max-row-bytes, or nested too deep
    MISSING_PROMPT = "missing_prompt"  # no prompt, or more than one
    EMPTY_PROMPT = "empty_prompt"  # a prompt without any token
    PROMPT_TOO_LONG = "prompt_too_long"  # more tokens than the model, or --max-model-len, takes
    INVALID_PARAMETER = "invalid_parameter"  # a sampling parameter of the wrong type or out of range
    INVALID_OUTPUT = "invalid_output"  # cut before it satisfied the row's schema, expression, grammar or choice; text is kept
    UNSUPPORTED = "unsupported"  # asked for in a way that is right, but that pagecli does not have
    NOT_TOKENIZABLE = "not_tokenizable"  # the tokenizer or the chat template refuses it
    KV_TOO_SMALL = "kv_too_small"  # the KV cache could never hold it
    LOGITS_NOT_FINITE = "logits_not_finite"  # the model computed NaN or infinity for it, so no token can be chosen
    ENGINE_FAILURE = "engine_failure"  # the engine failed on it
    WORKER_LOST = "worker_lost"  # the workers of a pool that ran it ended, one after the other


class PagecliError(Exception):
    """An error the user can act on: `message` names the fault and its location, `hint` the remedy."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def one_line(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(PagecliError):
    """A flag or parameter that is unknown, malformed, out of range or in conflict with another; exit code 2."""

    exit_code = ExitCode.USAGE


class InputError(PagecliError):
    """An input that cannot be read, or an output that cannot be written; exit code 3."""

    exit_code = ExitCode.INPUT


class ModelError(PagecliError):
    """A model, tokenizer or template that cannot be loaded, or does not fit in memory; exit code 4."""

    exit_code = ExitCode.MODEL


class EngineLostError(ModelError):
    """What computes is gone for good while rows run, and no row is to blame: the job ends, finished rows are kept."""


class RowError(PagecliError):
    """One row that cannot be processed; the job writes it as an error row and continues. `code`: the kind of fault."""

    exit_code = ExitCode.ROWS

    def __init__(self, message: str, hint: str | None = None, code: ErrorCode = ErrorCode.INVALID_PARAMETER) -> None:
        super().__init__(message, hint)
        self.code = code


def first_line(error: BaseException) -> str:
    """What an exception of a library says, in one line; without a message the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason_of(error: BaseException) -> str:
    """Why an operation failed, in one line: the system's words where it refused; libraries write paths around them."""
    if not isinstance(error, OSError):
        return first_line(error)
    if error.errno is not None and error.errno > 0:  # below: of names of hosts
        return os.strerror(error.errno)
    return error.strerror or first_line(error)


def short_repr(value: object) -> str:
    """repr() of a value for a message, cut short: a value read from an input may be of any length."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
