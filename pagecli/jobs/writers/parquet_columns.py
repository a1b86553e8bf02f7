"""Arrow tables out of output rows: the input's columns (carried or inferred) between `id` and the results."""

from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from pagecli.jobs.rows.arrow_values import ArrowColumns
from pagecli.jobs.rows.output_row import SHARD_COLUMN, OutputRow, ResultColumns, carried_columns, carried_name
from pagecli.jobs.writers.json_inference import json_text, merged_type, to_array, widened
from pagecli.jobs.writers.jsonl_writer import logprob_records
from pagecli.jobs.writers.shard_labels import ShardLabels

JSON_TEXT = {"pagecli": "json"}  # of a column whose values are JSON as text
_LOGPROB = [("token_id", pa.int32()), ("logprob", pa.float32())]
SHARD_TYPE = pa.struct(
    [("number", pa.int32()), ("count", pa.int32()), ("row", pa.int64()), ("line", pa.int64()), ("job", pa.string())]
)
LOGPROBS_TYPE = pa.list_(pa.struct([*_LOGPROB, ("top", pa.list_(pa.struct(_LOGPROB)))]))


def is_json_text(field: pa.Field) -> bool:
    return field.metadata is not None and field.metadata.get(b"pagecli") == b"json"


class CarriedColumns(Protocol):
    """Builds `id` and the input's columns of a group of rows."""

    def build(self, rows: list[OutputRow]) -> dict[str, Any]:
        """Output name -> array of len(rows) values."""
        ...


class ArrowCarriedColumns:
    """Columns of a Parquet input, sliced out of its record batches: types and values stay what they are."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def build(self, rows: list[OutputRow]) -> dict[str, Any]:
        table = pa.Table.from_batches(_slices(rows), schema=self._schema)
        has_id = "id" in self._schema.names
        columns = {"id": table["id"] if has_id else pa.array([row.row.number for row in rows], pa.int64())}
        columns.update((carried_name(name), table[name]) for name in self._schema.names if name != "id")
        return columns

    def fields(self) -> dict[str, pa.Field]:
        """Output name -> field, with the input's nullability and metadata."""
        return {field.name if field.name == "id" else carried_name(field.name): field for field in self._schema}


def _slices(rows: list[OutputRow]) -> list[pa.RecordBatch]:
    """The rows' record batches, neighbours in one piece."""
    slices = []
    first: ArrowColumns | None = None
    length = 0
    for row in rows:
        place = row.row.columns
        assert isinstance(place, ArrowColumns)
        if first is not None and place.batch is first.batch and place.offset == first.offset + length:
            length += 1
            continue
        if first is not None:
            slices.append(first.batch.slice(first.offset, length))
        first, length = place, 1
    if first is not None:
        slices.append(first.batch.slice(first.offset, length))
    return slices


class InferredColumns:
    """Columns of JSON rows. Types widen from group to group and never narrow; a mixed column becomes JSON text."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self.types: dict[str, pa.DataType] = {}
        self.json_columns: set[str] = set()

    def build(self, rows: list[OutputRow]) -> dict[str, Any]:
        values: dict[str, list[Any]] = {"id": [row.id for row in rows]}
        for position, row in enumerate(rows):
            for name, new_name in carried_columns(row.row):
                values.setdefault(new_name, [None] * len(rows))[position] = row.row.columns[name]
        for name in self.types:
            values.setdefault(name, [None] * len(rows))
        for name in values:
            self.types.setdefault(name, pa.null())
        if not rows:
            self.types["id"] = pa.int64()
        return {name: self._column(name, values[name]) for name in self.types}

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        if name not in self.json_columns:
            array = to_array(values)
            kind = merged_type(self.types[name], array.type) if array is not None else None
            wide = widened(array, kind) if kind is not None else None
            if wide is not None:
                self.types[name] = wide.type
                return wide
            self.give_up_type(name)
        return pa.array([json_text(value, plain_strings=name == "id") for value in values], pa.string())

    def give_up_type(self, name: str) -> None:
        """From now on `name` holds JSON text."""
        self.json_columns.add(name)
        self.types[name] = pa.string()
        text = "text" if name == "id" else "JSON text"
        self._warn(f"column {name!r} holds values of different types; it is written as {text}")


def result_arrays(rows: list[OutputRow], columns: ResultColumns, labels: ShardLabels | None = None) -> dict[str, pa.Array]:
    """pagecli's own columns of a group of rows."""
    arrays = {
        "sample": pa.array([row.sample for row in rows], pa.int32()),
        "text": pa.array([row.text for row in rows], pa.string()),
    }
    if columns.token_ids:
        arrays["token_ids"] = pa.array([row.token_ids for row in rows], pa.list_(pa.int32()))
    arrays["finish_reason"] = pa.array([row.finish_reason for row in rows], pa.string())
    arrays["prompt_tokens"] = pa.array([row.prompt_tokens for row in rows], pa.int32())
    arrays["output_tokens"] = pa.array([row.output_tokens for row in rows], pa.int32())
    if columns.score:
        arrays["score"] = pa.array([row.score for row in rows], pa.float64())
    if columns.logprobs:
        arrays["logprobs"] = pa.array([logprob_records(row.logprobs) for row in rows], LOGPROBS_TYPE)
    arrays["error"] = pa.array([row.error for row in rows], pa.string())
    arrays["error_code"] = pa.array([row.error_code for row in rows], pa.string())
    if labels is not None:
        arrays[SHARD_COLUMN] = pa.array([labels.label(row) for row in rows], SHARD_TYPE)
    return arrays
