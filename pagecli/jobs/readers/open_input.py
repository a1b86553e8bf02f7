"""Opens an input by its name's end: JSON Lines, CSV (each plain, gzip or zstd), Parquet; a stream; or several files."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pagecli.errors import InputError
from pagecli.jobs.readers.csv_reader import CsvSource
from pagecli.jobs.readers.jsonl_reader import JsonlSource
from pagecli.jobs.readers.multi_file_reader import MultiFileSource, MultiParquetSource, files_of, is_several
from pagecli.jobs.readers.parquet_reader import ParquetSource
from pagecli.jobs.readers.text_input import MAX_ROW_BYTES
from pagecli.jobs.rows.input_row import InputSource
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.byte_streams import is_stream

InputFormat = Literal["auto", "jsonl", "openai-batch", "csv", "parquet"]
TEXT_COMPRESSIONS = ("", ".gz", ".zst")
JSONL_SUFFIXES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".ndjson", ".json") for packed in TEXT_COMPRESSIONS)
CSV_SUFFIXES = tuple(f"{kind}{packed}" for kind in (".csv", ".tsv") for packed in TEXT_COMPRESSIONS)
PARQUET_SUFFIXES = (".parquet", ".pq")
NAMES = ".jsonl, .csv, .tsv (each also .gz or .zst) or .parquet"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How rows are read. `warn` is called once for each key of a batch file's requests that is ignored."""

    input_format: InputFormat = "auto"
    max_row_bytes: int = MAX_ROW_BYTES
    warn: Callable[[str], None] = lambda text: None


def open_input(path: str, limit: int | None = None, options: ReadOptions = ReadOptions()) -> InputSource:
    """Opens `path` (`-`: standard input, JSON Lines unless told) for one pass over `limit` rows. Raises InputError."""
    input_format = options.input_format
    path = remote_files.local(path)
    if not remote_files.is_remote(path) and is_stream(path):
        if input_format == "parquet":
            raise InputError("Parquet cannot be read from a pipe", "name a file")
        return _open_one(path, limit, "jsonl" if input_format == "auto" else input_format, options)
    if not is_several(path):
        return _open_one(path, limit, input_format, options)
    kind = input_format
    suffixes = PARQUET_SUFFIXES + JSONL_SUFFIXES + CSV_SUFFIXES if kind == "auto" else _suffixes(kind)
    paths = files_of(path, suffixes)
    kinds = {format_of(file) if kind == "auto" else kind for file in paths}
    if len(kinds) > 1:
        found = ", ".join(sorted(kinds))
        raise InputError(
            f"{remote_files.shown(path)} has files of more than one format: {found}", "give a pattern: 'DIR/*.jsonl'"
        )
    if kinds == {"parquet"}:
        return MultiParquetSource(path, paths, limit, options.max_row_bytes)
    return MultiFileSource(path, paths, lambda file, rest: _open_one(file, rest, kind, options), limit)


def input_files(path: str) -> list[str]:
    """The local files that an input consists of; none for streams and URLs. Raises InputError."""
    path = remote_files.local(path)
    if remote_files.is_remote(path) or is_stream(path):
        return []
    return files_of(path, PARQUET_SUFFIXES + JSONL_SUFFIXES + CSV_SUFFIXES) if is_several(path) else [path]


def format_of(path: str) -> InputFormat:
    """By the name's end. Raises InputError for one that is unknown."""
    name = path.lower()
    kinds: tuple[InputFormat, ...] = ("parquet", "jsonl", "csv")
    for kind in kinds:
        if name.endswith(_suffixes(kind)):
            return kind
    if not remote_files.is_remote(path) and not os.path.exists(path):
        raise InputError(f"{path}: no such file", "check the path; - reads JSON Lines from standard input")
    raise InputError(
        f"{remote_files.shown(path)}: unknown input format", f"inputs end in {NAMES}, or name it by --input-format"
    )


def _suffixes(kind: InputFormat) -> tuple[str, ...]:
    return {"parquet": PARQUET_SUFFIXES, "csv": CSV_SUFFIXES}.get(kind, JSONL_SUFFIXES)


def _open_one(path: str, limit: int | None, kind: InputFormat, options: ReadOptions) -> InputSource:
    if kind == "auto":
        kind = format_of(path)
    if kind == "parquet":
        return ParquetSource(path, limit, max_row_bytes=options.max_row_bytes)
    if kind == "csv":
        return CsvSource(path, limit, options.max_row_bytes)
    is_batch = None if options.input_format == "auto" else options.input_format == "openai-batch"
    return JsonlSource(path, limit, is_batch, options.max_row_bytes, options.warn)
