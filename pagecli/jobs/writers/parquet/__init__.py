"""Parquet output: row groups, one type for a column of JSON values, files with different columns into one."""

from typing import Literal

Compression = Literal["zstd", "snappy", "gzip", "lz4", "brotli", "none"]
