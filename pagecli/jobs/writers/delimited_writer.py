"""CSV and TSV output (RFC 4180, UTF-8, lines end in a line feed): a header, then a record for each row.

Text is written as it is, null and empty text both as nothing, true and false and numbers as in JSON, bytes as base64, lists and
objects as JSON text; what is read back by pagecli's own reader is the same text. JSON rows may bring new columns at any time:
the records written before are then padded, in one more pass at the end.
"""

import csv
import decimal
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from pagecli.jobs.readers.text_input import decompressed
from pagecli.jobs.rows.row import RESULT_COLUMNS, SHARD_COLUMN, OutputRow, ResultColumns, json_default, record_of, to_json
from pagecli.jobs.shards.shard_labels import ShardLabels
from pagecli.jobs.storage.atomic_file import create_temporary, not_writable, remove
from pagecli.jobs.writers.jsonl_writer import LineRowWriter

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = {f"{kind}{end}": codec for kind in DELIMITERS for end, codec in (("", None), (".gz", "gzip"), (".zst", "zstd"))}
_LAST = (*RESULT_COLUMNS, SHARD_COLUMN)
_POSITION = {name: position for position, name in enumerate(_LAST)}


def delimiter_of(suffix: str) -> str:
    return DELIMITERS[suffix[:4]]


def cell(value: Any) -> str:
    """A value as the text of a field."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, decimal.Decimal | bytes):
        return str(json_default(value))
    text = to_json(value)
    return "" if text == "null" else text  # a number that is not finite


def record_line(fields: list[str], delimiter: str) -> bytes:
    """One record with its line break. Quoted is what has a delimiter, a quote or a line break in it."""
    special = _SPECIAL[delimiter]
    quoted = ('"' + field.replace('"', '""') + '"' if special.search(field) else field for field in fields)
    return (delimiter.join(quoted) + "\n").encode("utf-8", "replace")


_SPECIAL = {delimiter: re.compile(rf'[{delimiter}"\r\n]') for delimiter in DELIMITERS.values()}


def crc_of(cells: Mapping[str, str]) -> int:
    """crc32 of a record's cells and their columns, in whatever order and with whatever empty ones beside them."""
    fields = [field for named in sorted(cells.items()) if named[1] for field in named]
    return zlib.crc32(record_line(fields, ","))


def read_records(file: Any, delimiter: str) -> Iterator[list[str]]:
    """The records of a binary file that was written so, the header first. Raises csv.Error."""
    csv.field_size_limit(sys.maxsize)
    return csv.reader(io.TextIOWrapper(file, "utf-8", newline=""), delimiter=delimiter, strict=True)


def merged_names(names: tuple[str, ...], more: Iterator[str] | tuple[str, ...]) -> tuple[str, ...]:
    """`names` and those of `more` that they lack: carried columns in the order of appearance, then pagecli's own in theirs."""
    every = dict.fromkeys((*names, *more))
    own = sorted((name for name in every if name in _POSITION), key=_POSITION.__getitem__)
    return (*(name for name in every if name not in _POSITION), *own)


class DelimitedEncoder:
    """OutputRow -> one record, with the header before the first. `labels`: of a shard's rows, in a last column, as JSON."""

    def __init__(
        self, columns: ResultColumns, delimiter: str, labels: ShardLabels | None, num_selected: Callable[[], int | None]
    ) -> None:
        self.delimiter = delimiter
        self._columns = columns
        self._labels = labels
        self._num_selected = num_selected
        self._held: dict[str, Any] | None = None  # a shard's last row, which gets more
        self._num_records = 0
        self.layouts: list[tuple[int, tuple[str, ...]]] = []  # (first record that has them, names of its fields)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of all records so far."""
        return self.layouts[-1][1] if self.layouts else ()

    def __call__(self, row: OutputRow) -> bytes:
        record = record_of(row, self._columns)
        if self._labels is None:
            return self._line(record)
        before, self._held = self._held, {**record, SHARD_COLUMN: self._labels.label(row)}
        return b"" if before is None else self._line(before)

    def end(self, is_complete: bool) -> bytes:
        if self._held is None:
            return b"" if self.layouts else self._header(("id", *self._columns.names))
        record, self._held = self._held, None
        if is_complete:
            record[SHARD_COLUMN] = {**record[SHARD_COLUMN], "rows": self._num_selected()}
        return self._line(record)

    def _line(self, record: dict[str, Any]) -> bytes:
        head = b""
        if not self.layouts:
            head = self._header(merged_names((), tuple(record)))
        elif not record.keys() <= set(self.names):
            self.layouts.append((self._num_records, merged_names(self.names, tuple(record))))
        self._num_records += 1
        cells = {name: cell(value) for name, value in record.items() if name != SHARD_COLUMN}
        if self._labels is not None:
            cells[SHARD_COLUMN] = cell({**record[SHARD_COLUMN], "crc": crc_of(cells)})
        return head + record_line([cells.get(name, "") for name in self.names], self.delimiter)

    def _header(self, names: tuple[str, ...]) -> bytes:
        self.layouts.append((0, names))
        return record_line(list(names), self.delimiter)


class DelimitedRowWriter(LineRowWriter):
    """A file of records; where the columns have grown, the file is written once more before it gets its name."""

    def __init__(self, path: Path, suffix: str, overwrite: bool, encode: DelimitedEncoder) -> None:
        super().__init__(path, suffix, SUFFIXES[suffix], overwrite, encode)
        self._records = encode

    lines_are_rows = False  # a field may have line breaks

    def _close(self) -> None:
        super()._close()
        if len(self._records.layouts) > 1:
            self._write_again()
            del self._records.layouts[:-1]

    def _write_again(self) -> None:
        """Every record with all columns, in their final order. Raises InputError."""
        temporary, disk = create_temporary(self._path)
        try:
            with ExitStack() as stack:
                stack.enter_context(disk)
                out: Any = stack.enter_context(pa.CompressedOutputStream(disk, self._codec)) if self._codec else disk
                raw: Any = stack.enter_context(open(self._temporary, "rb", buffering=0))
                for line in self._padded(read_records(decompressed(raw, str(self._path)), self._records.delimiter)):
                    out.write(line)
        except OSError as error:
            remove(temporary)
            raise not_writable(self._path, error) from error
        remove(self._temporary)
        self._temporary = temporary

    def _padded(self, records: Iterator[list[str]]) -> Iterator[bytes]:
        names, delimiter = self._records.names, self._records.delimiter
        next(records)  # the first header
        yield record_line(list(names), delimiter)
        layouts = iter(self._records.layouts)
        _, own = next(layouts)
        upcoming = next(layouts, None)
        for number, fields in enumerate(records):
            while upcoming is not None and number >= upcoming[0]:
                own, upcoming = upcoming[1], next(layouts, None)
            values = dict(zip(own, fields, strict=True))
            yield record_line([values.get(name, "") for name in names], delimiter)
