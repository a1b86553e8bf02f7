"""Texts of flags that stand in files: --template-file, --system-file."""

from pathlib import Path

from pagecli.errors import InputError, UsageError

MAX_BYTES = 1 << 20


def text_of(flag: str, text: str | None, path: Path) -> str:
    """The text of `flag`, of its file, without the line break at its end; `text`: of the flag itself. Raises UsageError,
    InputError."""
    name = f"{flag}-file {path}"
    if text is not None:
        raise UsageError(f"{flag} and {flag}-file are both given", "leave one of them out")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be read: {reason}", "name a file of text") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES >> 20} MiB", "name the file of the text")
    try:
        return content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8", "convert it: iconv -f latin1 -t utf-8") from error
