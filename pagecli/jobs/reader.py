"""Opens an input by what its name ends with: JSON Lines (plain, gzip, zstd), Parquet, or a stream of JSON Lines."""

import os

from pagecli.errors import InputError
from pagecli.jobs.byte_streams import is_stream
from pagecli.jobs.input_row import InputSource
from pagecli.jobs.jsonl_reader import JsonlSource
from pagecli.jobs.parquet_reader import ParquetSource

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".json")
PARQUET_SUFFIXES = (".parquet", ".pq")


def open_input(path: str, limit: int | None = None) -> InputSource:
    """Opens `path` (`-` is standard input) for one pass over its first `limit` rows. Raises InputError."""
    if is_stream(path):
        return JsonlSource(path, limit)
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory", "give one .jsonl or .parquet file")
    name = path.lower()
    if name.endswith(PARQUET_SUFFIXES):
        return ParquetSource(path, limit)
    if name.endswith(JSONL_SUFFIXES):
        return JsonlSource(path, limit)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file", "check the path; - reads JSON Lines from standard input")
    raise InputError(f"{path}: unknown input format", "inputs end in .jsonl, .jsonl.gz, .jsonl.zst or .parquet, or are -")
