"""The flags that choose rows and formats: --where, --sample, --shard, --too-long, --input-format, --dry-run, ..."""

from typing import Annotated, Literal

from pagecli.cli.flags.engine_and_sampling import option

FORMATS, ROWS, CHAT = "Formats", "Choosing rows", "Prompts"


InputFormat = Annotated[
    Literal["auto", "jsonl", "openai-batch", "csv", "parquet"],
    option("What INPUT is. auto: by its name, OpenAI batch files by their first row.", FORMATS, "--input-format"),
]
OutputFormat = Annotated[
    Literal["auto", "rows"],
    option("auto: rows of an OpenAI batch file are answered in its format in JSON Lines.", FORMATS, "--output-format"),
]
Compression = Annotated[
    Literal["zstd", "snappy", "gzip", "lz4", "brotli", "none"], option("Of Parquet output.", FORMATS, "--compression")
]
RowGroupRows = Annotated[
    int | None,
    option(
        "Rows in a row group of Parquet output. Default: 1000.", FORMATS, "--row-group-rows", metavar="N", min=1, max=1 << 31
    ),
]
MaxRowBytes = Annotated[
    str,
    option(
        "A longer input row becomes an error row; lines are not held in memory whole.",
        FORMATS,
        "--max-row-bytes",
        metavar="SIZE",
    ),
]
Where = Annotated[
    str | None,
    option("Take the rows that meet a condition: \"lang == 'en' and score > 0.5\".", ROWS, "--where", metavar="CONDITION"),
]
Sample = Annotated[
    str | None,
    option("Take N rows at random, or about a FRACTION of them (0.01).", ROWS, "--sample", metavar="N|FRACTION"),
]
SampleSeed = Annotated[int, option("Another seed takes other rows.", ROWS, "--sample-seed", min=0)]
ShardPart = Annotated[
    str | None,
    option(
        "Take every Nth row, from the Ith, for job I of N; pagecli merge puts the outputs together. auto/N: take one free part "
        "after the other, with any number of other processes; the last one merges.",
        ROWS,
        "--shard",
        metavar="I/N|auto/N",
    ),
]
TemplateTime = Annotated[
    str | None,
    option(
        "What chat templates see as the time. Default: when the job was begun. Parts (--shard) need one for all.",
        CHAT,
        "--template-time",
        metavar="YYYY-MM-DD[THH:MM]",
    ),
]
DryRun = Annotated[bool, option("Read and check every row, plan memory, estimate the time; write nothing.", ROWS, "--dry-run")]
TooLong = Annotated[
    Literal["error", "truncate-left", "truncate-right"],
    option("A prompt longer than the model takes: an error row, or cut at that end.", CHAT, "--too-long"),
]
