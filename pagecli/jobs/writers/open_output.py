"""Opens an output by what its name ends with: Parquet, JSON Lines, or `-` for JSON Lines on standard output."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pagecli.errors import InputError, UsageError
from pagecli.jobs.rows.output_row import OutputRow, ResultColumns
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.atomic_file import check_output
from pagecli.jobs.writers import jsonl_writer
from pagecli.jobs.writers.jsonl_writer import JsonlRowWriter, LineEncoder, RowEncoder, StdoutRowWriter
from pagecli.jobs.writers.openai_batch_output import BatchEncoder
from pagecli.jobs.writers.output_options import OutputOptions
from pagecli.jobs.writers.parquet_writer import ParquetRowWriter
from pagecli.jobs.writers.remote_writer import RemoteRowWriter, check_remote_output
from pagecli.jobs.writers.shard_labels import LabelledLines, ShardLabels

Warn = Callable[[str], None]
PLAIN = OutputOptions()


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
    if is_stdout(path):
        return
    suffix_of(path)
    if remote_files.is_remote(path):
        check_remote_output(path, overwrite)
    else:
        check_output(Path(remote_files.local(path)), overwrite)


def open_output(
    path: str,
    overwrite: bool,
    columns: ResultColumns,
    input_schema: pa.Schema | None,
    warn: Warn,
    stdout_fd: int = 1,
    options: OutputOptions = PLAIN,
) -> RowWriter:
    """The writer for `path`; `input_schema` is the input's, if it has one. Raises UsageError, InputError."""
    check_writable(path, overwrite)
    if is_stdout(path):
        if stdout_fd < 0:
            raise InputError("standard output is closed", "run it with standard output open, or name a file")
        return StdoutRowWriter(stdout_fd, _encoder(columns, options))
    suffix, place = suffix_of(path), remote_files.local_place(path)
    is_remote = remote_files.is_remote(path)
    replaces = overwrite or is_remote  # what is left in the state directory is nobody's
    writer: RowWriter
    if suffix in jsonl_writer.SUFFIXES:
        writer = JsonlRowWriter(place, suffix, replaces, _encoder(columns, options))
    else:
        writer = ParquetRowWriter(place, suffix, replaces, columns, input_schema, warn, options)
    return RemoteRowWriter(writer, place, path, overwrite) if is_remote else writer


def suffix_of(path: str) -> str:
    """What the output's name ends with. Raises UsageError if no format does."""
    for suffix in (".parquet", ".pq", *jsonl_writer.SUFFIXES):
        if path.endswith(suffix):
            return suffix
    message = f"{remote_files.shown(path)}: unknown output format"
    raise UsageError(message, "outputs end in .parquet, .jsonl, .jsonl.gz or .jsonl.zst, or are -")


class _Encoder:
    """Rows of an OpenAI batch file in its own output format, all others as rows."""

    def __init__(self, columns: ResultColumns, options: OutputOptions) -> None:
        self._plain = RowEncoder(columns)
        self._batch = BatchEncoder(options.model, options.created, options.token_text)
        self._all_plain = options.format == "rows"

    def __call__(self, row: OutputRow) -> bytes:
        return self._plain(row) if self._all_plain or row.row.batch_url is None else self._batch(row)

    def end(self, is_complete: bool) -> bytes:
        return b""


def _encoder(columns: ResultColumns, options: OutputOptions) -> LineEncoder:
    encode = _Encoder(columns, options)
    if options.shard is None:
        return encode
    return LabelledLines(encode, ShardLabels(options.shard, options.job_key), options.num_selected)
