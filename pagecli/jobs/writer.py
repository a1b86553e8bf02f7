"""Opens an output by what its name ends with: Parquet, JSON Lines, or `-` for JSON Lines on standard output."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pagecli.errors import InputError, UsageError
from pagecli.jobs import jsonl_writer
from pagecli.jobs.atomic_file import check_output
from pagecli.jobs.jsonl_writer import JsonlRowWriter, StdoutRowWriter
from pagecli.jobs.output_row import OutputRow, ResultColumns
from pagecli.jobs.parquet_writer import ParquetRowWriter

Warn = Callable[[str], None]


class RowWriter(Protocol):
    """Takes rows in the order they are to have. Ends with exactly one of finish, keep_partial and discard."""

    num_rows: int

    def write(self, row: OutputRow) -> None: ...

    def finish(self) -> None:
        """All rows are there: the output gets its name."""
        ...

    def keep_partial(self) -> Path | None:
        """The job ends early: what was written becomes a valid file of another name, which is returned."""
        ...

    def discard(self) -> None: ...


def is_stdout(path: str) -> bool:
    return path in ("-", "/dev/stdout")


def check_writable(path: str, overwrite: bool) -> None:
    """Finds out before the model loads that an output cannot be. Raises UsageError, InputError."""
    if not is_stdout(path):
        _suffix(path)
        check_output(Path(path), overwrite)


def open_output(
    path: str, overwrite: bool, columns: ResultColumns, input_schema: pa.Schema | None, warn: Warn, stdout_fd: int = 1
) -> RowWriter:
    """The writer for `path`; `input_schema` is the input's, if it has one. Raises UsageError, InputError."""
    check_writable(path, overwrite)
    if is_stdout(path):
        if stdout_fd < 0:
            raise InputError("standard output is closed", "run it with standard output open, or name a file")
        return StdoutRowWriter(stdout_fd, columns)
    suffix = _suffix(path)
    if suffix in jsonl_writer.SUFFIXES:
        return JsonlRowWriter(Path(path), suffix, overwrite, columns)
    return ParquetRowWriter(Path(path), suffix, overwrite, columns, input_schema, warn)


def _suffix(path: str) -> str:
    for suffix in (".parquet", ".pq", *jsonl_writer.SUFFIXES):
        if path.endswith(suffix):
            return suffix
    raise UsageError(f"{path}: unknown output format", "outputs end in .parquet, .jsonl, .jsonl.gz or .jsonl.zst, or are -")
