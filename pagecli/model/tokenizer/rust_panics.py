"""A panic in the Rust part of tokenizers becomes an Exception; PyO3 raises a BaseException, past every `except Exception`."""

from types import TracebackType


class TokenizerPanic(Exception):
    """The tokenizers package panicked on this text or file; its next call works again."""


class PanicsAsErrors:
    """A context manager: a panic inside it leaves it as TokenizerPanic, everything else as it is."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None and (kind.__module__, kind.__name__) == ("pyo3_runtime", "PanicException"):
            raise TokenizerPanic(str(error)) from None


panics_as_errors = PanicsAsErrors()
