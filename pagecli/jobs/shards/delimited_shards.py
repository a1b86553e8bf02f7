"""The CSV or TSV outputs of --shard parts into one, in order; parts whose columns differ get the columns of all."""

import csv
import heapq
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from pagecli.core.json_text import parsed
from pagecli.errors import InputError, reason_of
from pagecli.jobs.readers.text_input import decompressed, open_raw
from pagecli.jobs.rows.row import SHARD_COLUMN
from pagecli.jobs.shards.shard_order import NO_PART, PartOrder, ShardLabel, ShardOrder, check_parts
from pagecli.jobs.writers.delimited_writer import crc_of, merged_names, read_records, record_line


def merge_delimited(paths: list[str], file: BinaryIO, codec: str | None, delimiter: str) -> int:
    """Writes the rows of all parts; returns how many. Raises InputError, OSError."""
    with ExitStack() as stack:
        out: Any = stack.enter_context(pa.CompressedOutputStream(file, codec)) if codec else file
        parts = [_Part(stack, path, delimiter) for path in paths]
        check_parts([part.order for part in parts])
        names: tuple[str, ...] = ()
        for part in parts:
            names = merged_names(names, (name for name in part.names if name != SHARD_COLUMN))
        out.write(record_line(list(names), delimiter))
        order, num_rows = ShardOrder(), 0
        for record in heapq.merge(*parts, key=lambda record: record.label.row):
            order.next(record.label.row)
            out.write(record_line([record.values.get(name, "") for name in names], delimiter))
            num_rows += 1
        order.check_end([part.order for part in parts])
    return num_rows


@dataclass(frozen=True, slots=True)
class _Record:
    values: dict[str, str]
    label: ShardLabel


class _Part:
    """The records of one part, one after the other. Raises InputError."""

    def __init__(self, stack: ExitStack, path: str, delimiter: str) -> None:
        self.order = PartOrder(path)
        raw = stack.enter_context(open_raw(path))
        self._records = read_records(stack.enter_context(decompressed(raw, path)), delimiter)
        self.names = self._fields() or []
        self._first = self._next()

    def _fields(self) -> list[str] | None:
        path = self.order.path
        try:
            return next(self._records, None)
        except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read: {reason_of(error)}", "it may be cut short") from error

    def _next(self) -> _Record | None:
        fields = self._fields()
        if fields is None:
            self.order.check_end()
            return None
        try:
            values = dict(zip(self.names, fields, strict=True))
            label = ShardLabel.of(parsed(values.pop(SHARD_COLUMN)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{self.order.path} has a record that is no row of a part", NO_PART) from error
        label.check_row(f"{self.order.path}, record {label.line + 1}", crc_of(values))
        self.order.next(label)
        return _Record(values, label)

    def __iter__(self) -> Iterator[_Record]:
        record = self._first
        while record is not None:
            yield record
            record = self._next()
