"""Inputs and outputs that are URLs (s3://, gs://, hf://, memory://, ...), by fsspec; file:// is a local path.

An output is written on this machine and uploaded when it is complete, so that it appears at once or not at all.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pagecli.core.file_targets import scheme_of, shown
from pagecli.errors import InputError, PagecliError, UsageError, first_line

# Stores that show an uploaded object only when it is whole; elsewhere it is uploaded under another name and moved.
WHOLE_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oss", "r2", "memory"}
EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
READ_BLOCK_BYTES = 8 << 20


def open_for_reading(path: str) -> Any:
    """The remote file, open for reading at any offset. Raises InputError."""
    with translated_errors(path):
        system, name = file_system(path)
        return system.open(name, "rb", block_size=READ_BLOCK_BYTES)


def matching(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """The remote files below a directory, or that a pattern matches, sorted; a file's own path. Raises InputError."""
    with translated_errors(path):
        system, name = file_system(path)
        if any(char in name for char in "*?["):
            found = system.glob(name)
        elif system.isdir(name):
            found = [file for file in system.find(name) if file.lower().endswith(suffixes)]
        else:
            return [path]
        return sorted(system.unstrip_protocol(file) for file in found)


def exists(path: str) -> bool:
    with translated_errors(path):
        system, name = file_system(path)
        return bool(system.exists(name))


def upload(source: Path, path: str, overwrite: bool) -> None:
    """Puts the file at `path`, where it appears when it is complete. Raises UsageError if the name is taken, InputError."""
    with translated_errors(path, writing=True):
        system, name = file_system(path)
        if not overwrite and system.exists(name):
            raise UsageError(f"{shown(path)} was created by another process meanwhile", f"the result is in {source}")
        if scheme_of(path) in WHOLE_OBJECT_STORES:
            system.put_file(str(source), name)
        else:
            system.put_file(str(source), f"{name}.uploading")
            system.mv(f"{name}.uploading", name)


def file_system(path: str) -> tuple[Any, str]:
    """fsspec's file system for the URL, and the path in it. Raises what fsspec raises."""
    import fsspec

    return fsspec.core.url_to_fs(path)


@contextlib.contextmanager
def translated_errors(path: str, writing: bool = False) -> Iterator[None]:
    """Inside, whatever a remote file system raises becomes one line of InputError."""
    try:
        yield
    except PagecliError:
        raise
    except Exception as error:
        raise _input_error(path, error, "written" if writing else "read") from error


def _input_error(path: str, error: Exception, verb: str) -> InputError:
    name, scheme = shown(path), scheme_of(path)
    if isinstance(error, ImportError):
        package = EXTRAS.get(scheme)
        hint = f"pip install {package}" if package else first_line(error)
        return InputError(f"{name}: {scheme}:// needs a package that is not installed", hint)
    if isinstance(error, FileNotFoundError):
        return InputError(f"{name}: no such file", "check the path, and that the bucket exists")
    if isinstance(error, PermissionError):
        return InputError(f"{name}: permission denied", f"check the credentials for {scheme}://")
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return InputError(f"{name}: unknown kind of URL {scheme}://", "s3://, gs://, hf://, file:// are known")
    reason = redacted(first_line(error))
    return InputError(f"{name} cannot be {verb}: {reason}", f"check the network and the credentials for {scheme}://")


def redacted(text: str) -> str:
    """A message without what a URL in it has of users, passwords and queries."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", lambda match: shown(match[0]), text)
