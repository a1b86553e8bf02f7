"""Outputs of --shard parts put together in the order of the whole input, as one output; a part that is missing is found.

Every row of a part bears a label: which part of how many it is of, its position in the part and in the whole, and the job. Rows
are put back in order and the label is taken off, so that the result is what a run without --shard writes.
"""

import contextlib
import heapq
import re
import resource
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from pagecli.core.file_targets import is_stream, resolved_target
from pagecli.core.json_text import parsed
from pagecli.errors import InputError, UsageError, reason_of
from pagecli.jobs.readers.text_input import decompressed, open_raw
from pagecli.jobs.rows.row import SHARD_COLUMN, to_json
from pagecli.jobs.shards.delimited_shards import merge_delimited
from pagecli.jobs.shards.parquet_shards import merge_parquet
from pagecli.jobs.shards.shard_order import NO_PART, PartOrder, ShardLabel, ShardOrder, check_parts
from pagecli.jobs.storage.atomic_file import check_output, create_temporary, not_writable, publish, remove
from pagecli.jobs.writers.delimited_writer import SUFFIXES as DELIMITED
from pagecli.jobs.writers.delimited_writer import delimiter_of
from pagecli.jobs.writers.jsonl_writer import SUFFIXES
from pagecli.jobs.writers.open_output import PARQUET_SUFFIXES, suffix_of
from pagecli.jobs.writers.parquet import Compression
from pagecli.jobs.writers.parquet.writer import check_footer

_LAST_KEY = re.compile(rb', "%s": (\{[^{}]*\})\}\n?\Z' % SHARD_COLUMN.encode())


@dataclass(frozen=True, slots=True)
class Merged:
    """The result of a merge."""

    num_rows: int
    num_parts: int


def merge_outputs(paths: list[str], output: str, overwrite: bool, compression: Compression = "zstd") -> Merged:
    """Writes the rows of all parts to `output`, which appears when it is complete. Raises UsageError, InputError."""
    suffix = suffix_of(output)
    final = resolved_target(Path(output))
    if len(set(map(str, map(Path, paths)))) < len(paths):
        raise UsageError("a part is named more than once", "name each of them once")
    if (odd := next(filter(is_stream, paths), None)) is not None:
        raise UsageError(f"{odd} is a pipe or a device, which might never end", "name the files of the parts")
    kind = _format_of(suffix)
    if kind is None:
        raise UsageError(f"{output}: parts are not merged into {suffix}", "merge them into .parquet, .jsonl, .csv or .tsv")
    if {_format_of(suffix_of(path)) for path in paths} != {kind}:
        raise UsageError(f"parts and output are not all {kind}", "merge writes the format it reads")
    check_output(final, overwrite)
    _allow_open_files(len(paths))
    temporary, file = create_temporary(final)
    try:
        try:
            with file:
                if kind == "JSON Lines":
                    num_rows = _merge_lines(paths, file, SUFFIXES[suffix])
                elif kind == "Parquet":
                    num_rows = merge_parquet(paths, file, compression)
                else:
                    num_rows = merge_delimited(paths, file, DELIMITED[suffix], delimiter_of(suffix))
        except OSError as error:
            raise not_writable(final, error) from error
        if kind == "Parquet":
            check_footer(temporary, num_rows, final)
        publish(temporary, final, overwrite)
    finally:
        remove(temporary)
    return Merged(num_rows, len(paths))


def _format_of(suffix: str) -> str | None:
    """What messages call the format; None of one that has no parts."""
    if suffix in PARQUET_SUFFIXES:
        return "Parquet"
    return "JSON Lines" if suffix in SUFFIXES else suffix[1:4].upper() if suffix in DELIMITED else None


def _allow_open_files(count: int) -> None:
    """All parts are open at a time: as many as the system lets this process have at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 64
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


@dataclass(frozen=True, slots=True)
class _Line:
    content: bytes
    label: ShardLabel


def _merge_lines(paths: list[str], file: BinaryIO, codec: str | None) -> int:
    """Rows written."""
    with contextlib.ExitStack() as stack:
        out: Any = stack.enter_context(pa.CompressedOutputStream(file, codec)) if codec else file
        parts = [_Lines(stack, path) for path in paths]
        check_parts([part.order for part in parts])
        order, num_rows = ShardOrder(), 0
        for line in heapq.merge(*parts, key=lambda line: line.label.row):
            order.next(line.label.row)
            out.write(line.content)
            num_rows += 1
        order.check_end([part.order for part in parts])
    return num_rows


class _Lines:
    """The lines of one part, one after the other. Raises InputError."""

    def __init__(self, stack: contextlib.ExitStack, path: str) -> None:
        self.order = PartOrder(path)
        raw = stack.enter_context(open_raw(path))
        self._lines = enumerate(stack.enter_context(decompressed(raw, path)), 1)
        self._first = self._next()

    def _next(self) -> _Line | None:
        path = self.order.path
        try:
            number, line = next(self._lines, (0, b""))
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read: {reason_of(error)}", "it may be cut short") from error
        if not line:
            self.order.check_end()
            return None
        found = _parsed(line, f"{path}, line {number}")
        self.order.next(found.label)
        return found

    def __iter__(self) -> Iterator[_Line]:
        line = self._first
        while line is not None:
            yield line
            line = self._next()


def _parsed(line: bytes, location: str) -> _Line:
    """A line without its last key. One that another program has written again is read and written as JSON."""
    match = _LAST_KEY.search(line)
    try:
        if match is not None:
            written = _Line(line[: match.start()] + b"}\n", ShardLabel.of(parsed(match[1])))
            written.label.check_row(location, zlib.crc32(written.content))
            return written
        record = parsed(line)
        label = ShardLabel.of(record.pop(SHARD_COLUMN))
        content = to_json(record).encode("utf-8", "replace") + b"\n"
        return _Line(content, label)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{location} is no row of a part", NO_PART) from error
