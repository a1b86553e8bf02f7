"""From exceptions to exit codes and messages: every way a command can fail has one line and one code.

Errors of the command line say which flag, where its wrong value stands, and how it is used.
"""

import errno
import os
import re
import resource
from typing import Any

from pagecli.errors import ExitCode, InputError, ModelError, PagecliError
from pagecli.jobs.run.stop_signals import StopRequested

SETTINGS = "pagecli.settings"  # in a command's context: {parameter: what files set it to (settings.Setting)}
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
        from pagecli.cli.terminal.help import usage_line  # --version does without

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
    if (refusal := system_refusal(error)) is not None:
        return refusal.exit_code
    return ExitCode.USAGE if is_usage_error(error) else ExitCode.INTERNAL


def system_refusal(error: BaseException) -> PagecliError | None:
    """What the system refused, where only the user can mend it, as the one line to say; None of any other error.

    A net below what the parts say of their own files: also a library's import fails when no file can be opened any more, and
    threads fail to start in C++ and in Python with no more than a text.
    """
    is_limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY  # its memory
    while not isinstance(error, OSError):
        if isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map segment" in str(error)):
            return _too_little_memory()
        if isinstance(error, SystemError) and is_limited:  # of the interpreter, whose own allocation failed
            return _too_little_memory()
        if isinstance(error, RuntimeError) and str(error) in (os.strerror(errno.EAGAIN), "can't start new thread"):
            return _too_many_processes(is_limited)
        if isinstance(error, ImportError) and "Too many open files" in str(error):
            return _too_many_files()
        if error.__cause__ is None:
            return None
        error = error.__cause__
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _too_many_files()
    if error.errno == errno.ENOMEM:
        return _too_little_memory()
    if error.errno == errno.EAGAIN and error.strerror == os.strerror(errno.EAGAIN):  # of fork(2), not of a full pipe
        return _too_many_processes(is_limited)
    if error.errno == errno.ENOENT and error.filename is None:  # of getcwd(2)
        return InputError("the current directory is not there any more", "change to one that is")
    from pagecli.core.file_targets import unusable_path
    from pagecli.jobs.storage.atomic_file import not_writable

    path = "a file or standard output" if error.filename is None else str(error.filename)
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return unusable_path(path, error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return not_writable(path, error)
    return None


def _too_many_processes(memory_is_limited: bool) -> InputError:
    limits = "ulimit -u and, as each needs memory, ulimit -v" if memory_is_limited else "ulimit -u"
    hint = f"give fewer: --threads, OMP_NUM_THREADS; or see {limits}"
    return InputError("no more threads or processes can be started", hint)


def _too_little_memory() -> ModelError:
    hint = "give it more (ulimit -v, a container's limit), or ask for less: --kv-memory, --max-num-seqs, --workers"
    return ModelError("the system has no more memory for this process", hint)


def _too_many_files() -> InputError:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return InputError(f"too many open files: the limit is {limit}", "raise it: ulimit -n 1024")
