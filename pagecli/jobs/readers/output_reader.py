"""A finished output, read back row by row for --retry-errors: what pagecli itself wrote, in the input's order.

Only `id` and the result columns are read: the input's columns come from the input again.
"""

import csv
import dataclasses
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from pagecli.core.json_text import parsed
from pagecli.core.outputs import TokenLogprobs
from pagecli.errors import ErrorCode, InputError, UsageError, reason_of
from pagecli.jobs.readers.parquet_reader import open_parquet
from pagecli.jobs.readers.text_input import FileVersion, decompressed, open_raw
from pagecli.jobs.rows.arrow_values import to_python
from pagecli.jobs.rows.row import RESULT_COLUMNS, InputRow, OutputRow, ResultColumns
from pagecli.jobs.writers import delimited_writer, jsonl_writer, sqlite_writer
from pagecli.jobs.writers.delimited_writer import cell
from pagecli.jobs.writers.open_output import PARQUET_SUFFIXES, suffix_of

FLAG = "--retry-errors"
NOT_OF_INPUT = "give the input, and the flags that choose its rows, with which the output was made"
_FIELDS = {field.name: field for field in dataclasses.fields(OutputRow) if field.name in RESULT_COLUMNS}
_NUMBERS = ("sample", "prompt_tokens", "output_tokens", "attempts", "reasoning_tokens")
Record = dict[str, Any]


class FinishedOutput:
    """The groups of output rows of each input row, one after the other. Raises UsageError, InputError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UsageError(f"{path} is not there: {FLAG} is for a finished output", f"leave out {FLAG}")
        self._version = FileVersion.of(str(path))
        self._stack = ExitStack()
        self._records = _records(path, self._stack)
        self._next: Record | None = None
        self._advance()
        self.columns: tuple[str, ...] = tuple(self._next or ())

    def _advance(self) -> None:
        try:
            self._next = next(self._records, None)
        except (OSError, EOFError, zlib.error, csv.Error, sqlite3.Error, UnicodeDecodeError, pa.ArrowException) as error:
            raise InputError(f"{self.path} cannot be read: {reason_of(error)}", "it may be cut short") from error
        if self._next is not None and not {"id", "sample", "error"} <= self._next.keys():
            is_batch = "custom_id" in self._next
            what = "is in OpenAI's batch format" if is_batch else "is not as pagecli writes it"
            hint = "run its failed requests as a batch of their own" if is_batch else "give an output of pagecli generate"
            raise UsageError(f"{self.path} {what}: {FLAG} cannot put rows in place", hint)

    def next_rows(self) -> list[Record]:
        """The records of the next input row; none at the end."""
        group: list[Record] = []
        while self._next is not None and (not group or int(self._next["sample"]) > 0):
            group.append(self._next)
            self._advance()
        return group

    def num_error_rows(self) -> int:
        """Counted by reading the output to its end."""
        count = 0
        while group := self.next_rows():
            count += any(map(is_error, group))
        return count

    def widened(self, columns: ResultColumns) -> ResultColumns:
        """These columns and the optional ones that the output has."""
        optional: dict[str, Any] = {
            field.name: getattr(columns, field.name) or field.name in self.columns for field in dataclasses.fields(columns)
        }
        return ResultColumns(**optional)

    def check_unchanged(self) -> None:
        """Raises InputError."""
        self._version.check(str(self.path))

    def close(self) -> None:
        self._stack.close()


class GoodRows:
    """The output's good rows, taken in step with the input; by the thread that reads it."""

    def __init__(self, output: FinishedOutput) -> None:
        self._output = output

    def take(self, row: InputRow) -> list[OutputRow] | None:
        """The output rows of `row` as they were; None if it is an error row. Raises UsageError if it is another row's."""
        group = self._output.next_rows()
        own_id = row.columns.get("id", row.number)
        if not group or cell(group[0]["id"]) != cell(own_id):
            found = "has no more rows" if not group else f"has the row {cell(group[0]['id'])!r} there"
            raise UsageError(f"{row.location}: the input has {cell(own_id)!r}, and {self._output.path} {found}", NOT_OF_INPUT)
        if any(map(is_error, group)):
            return None
        return [dataclasses.replace(output_row(row, record), num_samples=len(group)) for record in group]

    def check_end(self) -> None:
        """To be called after the last input row. Raises UsageError, InputError."""
        if self._output.next_rows():
            raise UsageError(f"{self._output.path} has rows behind the input's last one", NOT_OF_INPUT)
        self._output.check_unchanged()


def is_error(record: Record) -> bool:
    return record["error"] not in (None, "")


def output_row(row: InputRow, record: Record) -> OutputRow:
    """The record as the row that it was written of. Raises InputError."""
    values: dict[str, Any] = {}
    try:
        for name in _FIELDS.keys() & record.keys():
            value = record[name]
            if value is None or (value == "" and name not in ("text", "reasoning")):
                continue
            values[name] = _value(name, value)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{row.location}: the output's row is not as pagecli writes it: {error}", NOT_OF_INPUT) from error
    return OutputRow(row, **values)


def _value(name: str, value: Any) -> Any:
    if name in _NUMBERS:
        return int(value)
    if name == "score":
        return float(value)
    if name == "error_code":
        return ErrorCode(value)
    if name in ("text", "finish_reason", "error", "reasoning"):
        return value
    value = parsed(value) if isinstance(value, str) else value
    return [_logprobs(position) for position in value] if name == "logprobs" else value


def _logprobs(position: Record) -> TokenLogprobs:
    top = tuple((token["token_id"], _number(token["logprob"])) for token in position["top"])
    return TokenLogprobs(position["token_id"], _number(position["logprob"]), top)


def _number(logprob: float | None) -> float:
    """Null is a token that could not be chosen."""
    return float("-inf") if logprob is None else logprob


def _records(path: Path, stack: ExitStack) -> Iterator[Record]:
    """The records of an output by its name's end. Raises UsageError for a format whose rows cannot be put in place."""
    suffix = suffix_of(str(path))
    readers: list[tuple[Any, Callable[[Path, ExitStack], Iterator[Record]]]] = [
        (jsonl_writer.SUFFIXES, _json_records),
        (delimited_writer.SUFFIXES, _delimited_records),
        (PARQUET_SUFFIXES, _parquet_records),
        (sqlite_writer.SUFFIXES, _sqlite_records),
    ]
    for suffixes, read in readers:
        if suffix in suffixes:
            return read(path, stack)
    raise UsageError(f"{FLAG} does not go with {suffix} output", "it goes with Parquet, JSON Lines, CSV, TSV and SQLite")


def _json_records(path: Path, stack: ExitStack) -> Iterator[Record]:
    raw = stack.enter_context(open_raw(str(path)))
    for number, line in enumerate(stack.enter_context(decompressed(raw, str(path))), 1):
        try:
            record = parsed(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: no JSON", "give an output of pagecli generate") from error
        yield record if isinstance(record, dict) else {}


def _delimited_records(path: Path, stack: ExitStack) -> Iterator[Record]:
    raw = stack.enter_context(open_raw(str(path)))
    records = delimited_writer.read_records(
        stack.enter_context(decompressed(raw, str(path))), delimited_writer.delimiter_of(suffix_of(str(path)))
    )
    names = next(records, [])
    for fields in records:
        yield dict(zip(names, fields, strict=False))


def _parquet_records(path: Path, stack: ExitStack) -> Iterator[Record]:
    file = stack.enter_context(open_parquet(str(path)))
    names = [name for name in file.schema_arrow.names if name == "id" or name in RESULT_COLUMNS]
    for batch in file.iter_batches(batch_size=256, columns=names, use_threads=False):
        for offset in range(batch.num_rows):
            yield {name: to_python(batch.column(name)[offset]) for name in names}


def _sqlite_records(path: Path, stack: ExitStack) -> Iterator[Record]:
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    stack.callback(database.close)
    rows = database.execute(f"SELECT * FROM {sqlite_writer.TABLE} ORDER BY rowid")
    names = [column[0] for column in rows.description]
    for row in rows:
        yield dict(zip(names, row, strict=True))
