"""Opens an output by what its name ends with: Parquet, JSON Lines; a stream (`-`, a pipe, a device) takes JSON Lines."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pagecli.core.file_targets import descriptor_of, is_stream_target, open_stream
from pagecli.errors import InputError, UsageError
from pagecli.jobs.rows.output_row import OutputRow, ResultColumns
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.atomic_file import check_output
from pagecli.jobs.writers import jsonl_writer
from pagecli.jobs.writers.jsonl_writer import JsonlRowWriter, LineEncoder, RowEncoder, StreamRowWriter
from pagecli.jobs.writers.openai_batch_output import BatchEncoder
from pagecli.jobs.writers.output_options import OutputOptions
from pagecli.jobs.writers.parquet_writer import ParquetRowWriter
from pagecli.jobs.writers.remote_writer import RemoteRowWriter, check_remote_output
from pagecli.jobs.writers.shard_labels import LabelledLines, ShardLabels

Warn = Callable[[str], None]
PLAIN = OutputOptions()
STANDARD_OUTPUT = "standard output"
PACKED_SUFFIXES = (".parquet", ".pq", ".gz", ".zst")


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


def is_stream_output(path: str) -> bool:
    """Whether rows are written to `path` one by one: it has no journal, and nothing of it is replaced. Raises InputError."""
    return path == "-" or (not remote_files.is_remote(path) and is_stream_target(remote_files.local(path)))


def is_stdout(path: str) -> bool:
    return path == "-" or descriptor_of(remote_files.local(path)) == 1


def check_writable(path: str, overwrite: bool) -> None:
    """Finds out before the model loads that an output cannot be. Raises UsageError, InputError."""
    if is_stream_output(path):
        if not is_stdout(path) and path.endswith(PACKED_SUFFIXES):
            raise UsageError(
                f"{path} is a pipe or device, which takes rows as JSON Lines", "give it another name, or name a file"
            )
        return
    suffix_of(path)
    if remote_files.is_remote(path):
        check_remote_output(path, overwrite)
    else:
        check_output(remote_files.local_output_path(path), overwrite)


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
    if is_stream_output(path):
        return _open_stream(remote_files.local(path), warn, stdout_fd, _encoder(columns, options))
    suffix, local_path = suffix_of(path), remote_files.local_output_path(path)
    is_remote = remote_files.is_remote(path)
    replaces = overwrite or is_remote  # a file left in the state directory has no user
    writer: RowWriter
    if suffix in jsonl_writer.SUFFIXES:
        writer = JsonlRowWriter(local_path, suffix, replaces, _encoder(columns, options))
    else:
        writer = ParquetRowWriter(local_path, suffix, replaces, columns, input_schema, warn, options)
    return RemoteRowWriter(writer, local_path, path, overwrite) if is_remote else writer


def _open_stream(path: str, warn: Warn, stdout_fd: int, encode: LineEncoder) -> StreamRowWriter:
    if is_stdout(path):
        if stdout_fd < 0:
            raise InputError("standard output is closed", "run it with standard output open, or name a file")
        return StreamRowWriter(stdout_fd, encode, STANDARD_OUTPUT, owned=False)
    try:
        fd = open_stream(path)
    except InputError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.ENXIO:
            raise
        warn(f"{path}: waiting for a reader of this pipe")
        fd = open_stream(path, waits=True)
    return StreamRowWriter(fd, encode, path, owned=True)


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
