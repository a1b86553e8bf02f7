"""The Parquet outputs of --shard parts into one, in order, in bounded memory."""

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.errors import InputError, first_line
from pagecli.jobs.readers.parquet_reader import open_parquet
from pagecli.jobs.rows.arrow_values import to_python
from pagecli.jobs.rows.row import RESULT_COLUMNS, SHARD_COLUMN
from pagecli.jobs.shards.shard_order import NO_PART, PartOrder, ShardLabel, ShardOrder, check_parts
from pagecli.jobs.writers.parquet import Compression
from pagecli.jobs.writers.parquet.columns import JSON_TEXT, SHARD_TYPE, is_json_text
from pagecli.jobs.writers.parquet.json_inference import json_text, merged_type, widened

BATCH_ROWS = 1000


def merge_parquet(paths: list[str], file: BinaryIO, compression: Compression) -> int:
    """Writes the rows of all parts; returns how many. Raises InputError, OSError."""
    with contextlib.ExitStack() as stack:
        parts = [_Part(path, stack.enter_context(open_parquet(path))) for path in paths]
        check_parts([part.order for part in parts])
        schema = _merged_schema([part.schema for part in parts])
        writer = stack.enter_context(pq.ParquetWriter(file, schema, compression=compression, write_page_checksum=True))
        order, num_rows = ShardOrder(), 0
        for table in _in_order(parts, schema, order):
            writer.write_table(table, row_group_size=max(BATCH_ROWS, table.num_rows))
            num_rows += table.num_rows
    return num_rows


class _Part:
    """One part's rows, read ahead as far as they are needed. Raises InputError."""

    def __init__(self, path: str, file: pq.ParquetFile) -> None:
        self.order = PartOrder(path)
        self.schema = file.schema_arrow
        if SHARD_COLUMN not in self.schema.names or self.schema.field(SHARD_COLUMN).type != SHARD_TYPE:
            raise InputError(f"{path} is no part of a job", NO_PART)
        self._batches = file.iter_batches(batch_size=BATCH_ROWS, use_threads=False)
        self.table: pa.Table = pa.Table.from_batches([], self.schema)
        self.rows = np.empty(0, np.int64)
        self.has_more = True
        self.read_more()

    def read_more(self) -> None:
        try:
            batch = next(self._batches, None)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.order.path} cannot be read: {first_line(error)}", "it may be cut short") from error
        if batch is None:
            self.has_more = False
            return
        for values in batch.column(SHARD_COLUMN).to_pylist():
            try:
                self.order.next(ShardLabel.of(values))
            except (TypeError, AttributeError) as error:
                raise InputError(f"{self.order.path} has a row that is of no part", NO_PART) from error
        self.table = pa.concat_tables([self.table, pa.Table.from_batches([batch], self.schema)])
        self.rows = np.concatenate([self.rows, np.asarray(batch.column(SHARD_COLUMN).field("row"))])

    def complete_up_to(self) -> float:
        """The position up to which no row is still to be read."""
        if not self.has_more:
            return float("inf")
        return float(self.rows[-1]) - 1 if len(self.rows) else -1.0

    def take(self, last: float) -> tuple[pa.Table, Any]:
        """The rows up to the position `last`, and their positions."""
        count = int(np.searchsorted(self.rows, last, side="right"))
        taken = self.table.slice(0, count), self.rows[:count]
        self.table, self.rows = self.table.slice(count), self.rows[count:]
        return taken


def _in_order(parts: list[_Part], schema: pa.Schema, order: ShardOrder) -> Iterator[pa.Table]:
    while any(part.has_more or len(part.rows) for part in parts):
        last = min(part.complete_up_to() for part in parts)
        taken = [part.take(last) for part in parts]
        positions = np.concatenate([rows for _, rows in taken])
        for row in np.unique(positions).tolist():
            order.next(row)
        if len(positions):
            table = pa.concat_tables([_as_schema(table, schema) for table, _ in taken])
            yield table.take(pa.array(np.argsort(positions, kind="stable")))
        for part in parts:
            if part.has_more and part.complete_up_to() <= last:
                part.read_more()


def _merged_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """Every column of any part, of a type that holds all; JSON text where there is none, or a part has it."""
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            fields[field.name] = _merged_field(fields[field.name], field) if field.name in fields else field
    del fields[SHARD_COLUMN]
    names = [name for name in fields if name not in RESULT_COLUMNS] + [name for name in RESULT_COLUMNS if name in fields]
    return pa.schema([fields[name] for name in names])


def _merged_field(one: pa.Field, other: pa.Field) -> pa.Field:
    if is_json_text(one) or is_json_text(other):
        return pa.field(one.name, pa.string(), metadata=JSON_TEXT)
    kind = merged_type(one.type, other.type)
    if kind is None:
        return pa.field(one.name, pa.string(), metadata=JSON_TEXT)
    return pa.field(one.name, kind, one.nullable or other.nullable, one.metadata)


def _as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        if field.name not in table.schema.names:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        own, column = table.schema.field(field.name), table[field.name]
        if is_json_text(field) and not is_json_text(own):
            plain = field.name == "id"
            arrays.append(pa.array([json_text(to_python(value), plain_strings=plain) for value in column], pa.string()))
            continue
        wide = widened(column, field.type)
        if wide is None:
            raise InputError(f"column {field.name!r} does not fit the type of another part", "merge the parts of one job")
        arrays.append(wide)
    return pa.table(arrays, schema=schema)
