"""Opens an output by what its name ends with: Parquet, JSON Lines, CSV, SQLite, DuckDB; a stream takes JSON Lines."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pagecli.core import file_targets
from pagecli.core.file_targets import descriptor_of, is_stream_target, open_stream
from pagecli.errors import InputError, UsageError
from pagecli.jobs.rows.row import OutputRow, ResultColumns, record_of, to_json
from pagecli.jobs.rows.row_selection import Shard
from pagecli.jobs.storage.atomic_file import check_output
from pagecli.jobs.writers import jsonl_writer
from pagecli.jobs.writers.jsonl_writer import LineEncoder, LineRowWriter, StreamRowWriter
from pagecli.jobs.writers.parquet import Compression

if TYPE_CHECKING:
    import pyarrow as pa

    from pagecli.jobs.shards.shard_labels import ShardLabels
OutputFormat = Literal["auto", "rows"]


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """`format` auto: in JSON Lines, rows of an OpenAI batch file are answered in its output format; rows: all as rows."""

    format: OutputFormat = "auto"
    model: str = ""  # what an OpenAI response names as its model
    created: Callable[[], int] = lambda: 0  # the Unix time that an OpenAI response has; called once if one is written
    token_bytes: Callable[[int], bytes | None] = lambda token_id: None  # of the vocabulary, once the model is loaded
    compression: Compression = "zstd"  # of Parquet
    row_group_rows: int | None = None  # of Parquet; None: as many as are written at once
    shard: Shard | None = None
    job_key: str = ""  # of a shard's output: what all parts of its job have in common
    num_selected: Callable[[], int | None] = lambda: None  # of a shard's: rows of all parts, when the input has been read

    def labels(self) -> "ShardLabels | None":
        """The labels of a shard's rows; None of a whole output."""
        if self.shard is None:
            return None
        from pagecli.jobs.shards.shard_labels import ShardLabels

        return ShardLabels(self.shard, self.job_key)


Warn = Callable[[str], None]
PLAIN = OutputOptions()
STANDARD_OUTPUT = "standard output"
PARQUET_SUFFIXES = (".parquet", ".pq")
DELIMITED_SUFFIXES = tuple(f"{kind}{end}" for kind in (".csv", ".tsv") for end in ("", ".gz", ".zst"))
DATABASE_SUFFIXES = (".sqlite", ".sqlite3", ".db", ".duckdb")
PACKED_SUFFIXES = (*PARQUET_SUFFIXES, ".gz", ".zst", ".csv", ".tsv", *DATABASE_SUFFIXES)


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
    return path == "-" or (not file_targets.is_remote(path) and is_stream_target(file_targets.local(path)))


def is_stdout(path: str) -> bool:
    return path == "-" or descriptor_of(file_targets.local(path)) == 1


def check_writable(path: str, overwrite: bool) -> None:
    """Finds out before the model loads that an output cannot be. Raises UsageError, InputError."""
    if is_stream_output(path):
        if not is_stdout(path) and path.endswith(PACKED_SUFFIXES):
            raise UsageError(
                f"{path} is a pipe or device, which takes rows as JSON Lines", "give it another name, or name a file"
            )
        return
    if suffix_of(path) in (*PARQUET_SUFFIXES, ".duckdb") and _is_no_utf_8(path):
        raise UsageError(f"{path} is no UTF-8, which names of such files must be", "give another name, or write JSON Lines")
    if file_targets.is_remote(path):
        from pagecli.jobs.writers.remote_writer import check_remote_output

        check_remote_output(path, overwrite)
    else:
        check_output(file_targets.local_output_path(path), overwrite)


def _is_no_utf_8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def open_output(
    path: str,
    overwrite: bool,
    columns: ResultColumns,
    input_schema: "pa.Schema | None",
    warn: Warn,
    stdout_fd: int = 1,
    options: OutputOptions = PLAIN,
) -> RowWriter:
    """The writer for `path`; `input_schema` is the input's, if it has one. Raises UsageError, InputError."""
    check_writable(path, overwrite)
    if is_stream_output(path):
        return _open_stream(file_targets.local(path), warn, stdout_fd, _encoder(columns, options))
    suffix, local_path = suffix_of(path), file_targets.local_output_path(path)
    is_remote = file_targets.is_remote(path)
    replaces = overwrite or is_remote  # a file left in the state directory has no user
    writer: RowWriter
    if suffix in jsonl_writer.SUFFIXES:
        codec = jsonl_writer.SUFFIXES[suffix]
        writer = LineRowWriter(local_path, suffix, codec, replaces, _encoder(columns, options))
    elif suffix not in PARQUET_SUFFIXES:
        writer = _open_other(local_path, suffix, replaces, columns, input_schema, warn, options)
    else:
        from pagecli.jobs.writers.parquet.writer import ParquetRowWriter

        writer = ParquetRowWriter(
            local_path,
            suffix,
            replaces,
            columns,
            input_schema,
            warn,
            options.compression,
            options.row_group_rows,
            options.labels(),
        )
    if is_remote:
        from pagecli.jobs.writers.remote_writer import RemoteRowWriter

        return RemoteRowWriter(writer, local_path, path, overwrite)
    return writer


def _open_other(
    path: Path,
    suffix: str,
    overwrite: bool,
    columns: ResultColumns,
    input_schema: "pa.Schema | None",
    warn: Warn,
    options: OutputOptions,
) -> RowWriter:
    """A writer of the formats whose modules a job of another one does without. Raises UsageError, InputError."""
    if suffix in DELIMITED_SUFFIXES:
        from pagecli.jobs.writers.delimited_writer import DelimitedEncoder, DelimitedRowWriter, delimiter_of

        encode = DelimitedEncoder(columns, delimiter_of(suffix), options.labels(), options.num_selected)
        return DelimitedRowWriter(path, suffix, overwrite, encode)
    if options.shard is not None:
        raise UsageError(f"--shard does not go with {suffix} output", "parts are .parquet, .jsonl, .csv or .tsv")
    from pagecli.jobs.writers.database_logs import check_no_logs

    check_no_logs(path, suffix, overwrite)
    if suffix == ".duckdb":
        from pagecli.jobs.writers.duckdb_writer import DuckdbRowWriter, check_installed

        check_installed()
        return DuckdbRowWriter(path, suffix, overwrite, columns, input_schema, warn)
    from pagecli.jobs.writers.sqlite_writer import SqliteRowWriter

    return SqliteRowWriter(path, suffix, overwrite, columns)


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
    for suffix in (*PARQUET_SUFFIXES, *jsonl_writer.SUFFIXES, *DELIMITED_SUFFIXES, *DATABASE_SUFFIXES):
        if path.endswith(suffix):
            return suffix
    message = f"{file_targets.shown(path)}: unknown output format"
    raise UsageError(message, "outputs end in .parquet, .jsonl, .csv, .tsv (each also .gz or .zst), .sqlite, .duckdb, or are -")


class JsonEncoder:
    """OutputRow -> one line of JSON in UTF-8, of a row of an OpenAI batch file in its own output format.

    Carried NaN and Infinity are null.
    """

    def __init__(self, columns: ResultColumns, options: OutputOptions = PLAIN) -> None:
        self._columns = columns
        self._batch: Callable[[OutputRow], bytes] | None = None
        self._options = options

    def __call__(self, row: OutputRow) -> bytes:
        if row.row.batch_url is None or self._options.format == "rows":
            return (to_json(record_of(row, self._columns)) + "\n").encode("utf-8", "replace")
        if self._batch is None:
            self._batch = self._batch_encoder()
        return self._batch(row)

    def _batch_encoder(self) -> Callable[[OutputRow], bytes]:
        from pagecli.jobs.writers.openai_batch_output import BatchEncoder, TokenTexts

        texts = TokenTexts()
        texts.bind(self._options.token_bytes)
        return BatchEncoder(self._options.model, self._options.created(), texts)

    def end(self, is_complete: bool) -> bytes:
        return b""


def _encoder(columns: ResultColumns, options: OutputOptions) -> LineEncoder:
    encode = JsonEncoder(columns, options)
    if options.shard is None or (labels := options.labels()) is None:
        return encode
    from pagecli.jobs.shards.shard_labels import LabelledLines

    return LabelledLines(encode, labels, options.num_selected)
