"""Records that runs leave each other in small files, as JSON: a damaged one is an error that who reads it expects."""

import dataclasses
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 16
END_OF_TIME = 253_402_300_800  # seconds since 1970: the year 10,000, which dates do not have


def read_record(path: Path) -> bytes:
    """The content of the file. Raises OSError, ValueError for what is no small file: a pipe, a device."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        content = file.read(MAX_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    if content is None or len(content) > MAX_BYTES:
        raise ValueError(f"{path} is no small file")
    return content


def check_fields(record: Any) -> None:
    """Of a dataclass whose fields are plain. Raises TypeError for a value of another type."""
    for field in dataclasses.fields(record):
        value, wanted = getattr(record, field.name), int | float if field.type is float else field.type
        if isinstance(value, bool) or not isinstance(value, wanted):  # type: ignore[arg-type]
            raise TypeError(f"{field.name} is of another type")


def is_time(value: float) -> bool:
    """Whether it is a number of seconds since 1970 that has a date."""
    return 0 <= value < END_OF_TIME
