"""Several Parquet files with different columns into one, in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.jobs.rows.arrow_values import to_python
from pagecli.jobs.rows.row import RESULT_COLUMNS, SHARD_COLUMN
from pagecli.jobs.writers.parquet.columns import JSON_TEXT, InferredColumns
from pagecli.jobs.writers.parquet.json_inference import json_text, widened

COPY_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Segment:
    """A Parquet file with some of the rows; `json_columns` already hold JSON text in it."""

    path: Path
    schema: pa.Schema
    json_columns: frozenset[str]


class _NoCommonTypeError(Exception):
    """A value of `column` does not fit the column's final type."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def merge_segments(
    segments: list[Segment], path: Path, inferred: InferredColumns, check_space: Callable[[int], None], compression: str
) -> pa.Schema:
    """Writes all rows of `segments`, in order, to `path`. Raises OSError, ArrowException and what check_space raises."""
    while True:
        try:
            schema = _final_schema(segments, inferred)
            with pq.ParquetWriter(path, schema, compression=compression, write_page_checksum=True) as writer:
                for segment in segments:
                    _copy(segment, writer, schema, inferred.json_columns, check_space)
            return schema
        except _NoCommonTypeError as problem:  # an integer too large for the floats that came later: start again
            inferred.give_up_type(problem.column)


def _final_schema(segments: list[Segment], inferred: InferredColumns) -> pa.Schema:
    """id, every carried column in order of appearance, the result columns in their order."""
    fields = {field.name: field for segment in segments for field in segment.schema}
    own = (*RESULT_COLUMNS, SHARD_COLUMN)
    names = [name for name in fields if name not in own] + [name for name in own if name in fields]
    return pa.schema([_final_field(fields[name], inferred) for name in names])


def _final_field(field: pa.Field, inferred: InferredColumns) -> pa.Field:
    field = field.with_type(inferred.types.get(field.name, field.type))
    return field.with_metadata(JSON_TEXT) if field.name in inferred.json_columns else field


def _copy(
    segment: Segment, writer: pq.ParquetWriter, schema: pa.Schema, json_columns: set[str], check_space: Callable[[int], None]
) -> None:
    with pq.ParquetFile(segment.path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=COPY_ROWS, use_threads=False):
            arrays = [_column(batch, field, segment, json_columns) for field in schema]
            table = pa.table(arrays, schema=schema)
            check_space(table.nbytes)
            writer.write_table(table)


def _column(batch: pa.RecordBatch, field: pa.Field, segment: Segment, json_columns: set[str]) -> Any:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    array = batch.column(field.name)
    if field.name in json_columns and field.name not in segment.json_columns:
        plain = field.name == "id"
        return pa.array([json_text(to_python(value), plain_strings=plain) for value in array], pa.string())
    wide = widened(array, field.type)
    if wide is None:
        raise _NoCommonTypeError(field.name)
    return wide
