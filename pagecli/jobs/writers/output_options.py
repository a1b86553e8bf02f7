"""Options of an output beside its name and columns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pagecli.jobs.rows.row_selection import Shard
from pagecli.jobs.writers.openai_batch_output import TokenText, TokenTexts

OutputFormat = Literal["auto", "rows"]
Compression = Literal["zstd", "snappy", "gzip", "lz4", "brotli", "none"]


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """`format` auto: in JSON Lines, rows of an OpenAI batch file are answered in its output format; rows: all as rows."""

    format: OutputFormat = "auto"
    model: str = ""  # what an OpenAI response names as its model
    created: int = 0  # the Unix time that an OpenAI response has
    token_text: Callable[[int], TokenText] = field(default_factory=TokenTexts)
    compression: Compression = "zstd"  # of Parquet
    row_group_rows: int | None = None  # of Parquet; None: as many as are written at once
    shard: Shard | None = None
    job_key: str = ""  # of a shard's output: what all parts of its job have in common
    num_selected: Callable[[], int | None] = lambda: None  # of a shard's: rows of all parts, when the input has been read
