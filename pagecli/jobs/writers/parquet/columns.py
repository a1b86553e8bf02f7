"""Arrow tables out of output rows: the input's columns (carried or inferred) between `id` and the results."""

from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from pagecli.jobs.rows.arrow_values import ArrowColumns
from pagecli.jobs.rows.row import (
    KINDS,
    OTHER_COLUMNS,
    SHARD_COLUMN,
    TEXTS,
    OutputRow,
    ResultColumns,
    carried_columns,
    carried_name,
    logprob_records,
)
from pagecli.jobs.shards.shard_labels import ShardLabels
from pagecli.jobs.writers.parquet.json_inference import (
    MAX_LEVELS,
    is_bounded,
    json_text,
    merged_type,
    num_leaves,
    to_array,
    widened,
)

MAX_LEAVES = 1000  # leaf columns of JSON rows: each takes memory in every row group and in the footer
MAX_FIRST_COLUMNS = 10_000  # the first row's columns (a CSV file's header) may be more, up to this
MIXED = "holds values of different types"
JSON_TEXT = {"pagecli": "json"}  # of a column whose values are JSON as text
VALUE_TYPES = {  # of the columns that KINDS has beside texts
    "embedding": pa.list_(pa.float32()),
    "logprob": pa.float64(),
    "token_logprobs": pa.list_(pa.float32()),
    "token_is_greedy": pa.list_(pa.bool_()),
    "is_greedy": pa.bool_(),
    "perplexity": pa.float64(),
    "best_choice": pa.int32(),
    "choice_logprobs": pa.list_(pa.float64()),
}
_LOGPROB = [("token_id", pa.int32()), ("logprob", pa.float32())]
SHARD_TYPE = pa.struct(
    [("number", pa.int32()), ("count", pa.int32()), ("row", pa.int64()), ("line", pa.int64()), ("job", pa.string())]
)
TOOL_CALLS_TYPE = pa.list_(pa.struct([("name", pa.string()), ("arguments", pa.string())]))
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
        columns = row.row.columns
        assert isinstance(columns, ArrowColumns)
        if first is not None and columns.batch is first.batch and columns.offset == first.offset + length:
            length += 1
            continue
        if first is not None:
            slices.append(first.batch.slice(first.offset, length))
        first, length = columns, 1
    if first is not None:
        slices.append(first.batch.slice(first.offset, length))
    return slices


class InferredColumns:
    """Columns of JSON rows. Types widen from group to group and never narrow; a column of mixed values becomes JSON text.

    The number of leaf columns is bounded, by MAX_LEAVES or by what the first row brings: a nested column that would bring more
    is JSON text too, and columns that come after so many others go, as an object in JSON text, into one column for all of them.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._max_leaves: int | None = None  # None until the first row
        self.types: dict[str, pa.DataType] = {}
        self.json_columns: set[str] = set()

    def build(self, rows: list[OutputRow]) -> dict[str, Any]:
        if rows and self._max_leaves is None:
            self._max_leaves = max(MAX_LEAVES, min(len(rows[0].row.columns), MAX_FIRST_COLUMNS))
        values = self._values(rows)
        for name in values:
            self.types.setdefault(name, pa.null())
        if not rows:
            self.types["id"] = pa.int64()
        return {name: self._column(name, values[name]) for name in self.types}

    def _values(self, rows: list[OutputRow]) -> dict[str, list[Any]]:
        """Output name -> a value for each row."""
        values: dict[str, list[Any]] = {name: [None] * len(rows) for name in ("id", *self.types)}
        values["id"] = [row.id for row in rows]
        for position, row in enumerate(rows):
            others = {}
            for name, new_name in carried_columns(row.row):
                if new_name in values or len(values) <= (self._max_leaves or MAX_LEAVES):
                    values.setdefault(new_name, [None] * len(rows))[position] = row.row.columns[name]
                else:
                    others[name] = row.row.columns[name]
            if others:
                values.setdefault(OTHER_COLUMNS, [None] * len(rows))[position] = others
        if OTHER_COLUMNS in values and OTHER_COLUMNS not in self.json_columns:
            self.json_columns.add(OTHER_COLUMNS)
            self.types[OTHER_COLUMNS] = pa.string()
            self._warn(
                f"rows bring more than {len(values) - 1:,} columns; column {OTHER_COLUMNS!r} has the others, as JSON text"
            )
        return values

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        if name not in self.json_columns:
            wide, problem = self._typed(name, values)
            if wide is not None:
                self.types[name] = wide.type
                return wide
            self.give_up_type(name, problem)
        return pa.array([json_text(value, plain_strings=name == "id") for value in values], pa.string())

    def _typed(self, name: str, values: list[Any]) -> tuple[pa.Array | None, str]:
        """The values with a type that holds those before them too, or None and why there is none."""
        max_leaves = self._max_leaves or MAX_LEAVES
        too_large = f"is nested deeper than {MAX_LEVELS} levels, or the columns' objects have over {max_leaves:,} keys"
        if not is_bounded(values, max_leaves):
            return None, too_large
        array = to_array(values)
        kind = merged_type(self.types[name], array.type) if array is not None else None
        if kind is None:
            return None, MIXED
        others = [kind_of for other, kind_of in self.types.items() if other != name]
        if kind.num_fields and sum(map(num_leaves, others)) + num_leaves(kind) > max_leaves:
            return None, too_large
        return widened(array, kind), MIXED

    def give_up_type(self, name: str, problem: str = MIXED) -> None:
        """From now on `name` holds JSON text."""
        self.json_columns.add(name)
        self.types[name] = pa.string()
        text = "text" if name == "id" else "JSON text"
        self._warn(f"column {name!r} {problem}; it is written as {text}")


def result_arrays(rows: list[OutputRow], columns: ResultColumns, labels: ShardLabels | None = None) -> dict[str, pa.Array]:
    """pagecli's own columns of a group of rows."""
    arrays = {}
    if columns.kind == TEXTS:
        arrays["sample"] = pa.array([row.sample for row in rows], pa.int32())
        arrays["text"] = pa.array([row.text for row in rows], pa.string())
    if columns.token_ids:
        arrays["token_ids"] = pa.array([row.token_ids for row in rows], pa.list_(pa.int32()))
    if columns.kind == TEXTS:
        arrays["finish_reason"] = pa.array([row.finish_reason for row in rows], pa.string())
    arrays["prompt_tokens"] = pa.array([row.prompt_tokens for row in rows], pa.int32())
    arrays["output_tokens"] = pa.array([row.output_tokens for row in rows], pa.int32())
    if columns.score:
        arrays["score"] = pa.array([row.score for row in rows], pa.float64())
    if columns.logprobs:
        arrays["logprobs"] = pa.array([logprob_records(row.logprobs) for row in rows], LOGPROBS_TYPE)
    if columns.prompt_logprobs:
        arrays["prompt_logprobs"] = pa.array([row.prompt_logprobs for row in rows], LOGPROBS_TYPE)
    if columns.kind != TEXTS:
        for name in KINDS[columns.kind]:
            arrays[name] = pa.array([(row.values or {}).get(name) for row in rows], VALUE_TYPES[name])
    if columns.reasoning:
        arrays["reasoning"] = pa.array([row.reasoning for row in rows], pa.string())
        arrays["reasoning_tokens"] = pa.array([row.reasoning_tokens for row in rows], pa.int32())
    if columns.tool_calls:
        arrays["tool_calls"] = pa.array([row.tool_calls for row in rows], TOOL_CALLS_TYPE)
    if columns.attempts:
        arrays["attempts"] = pa.array([row.attempts for row in rows], pa.int32())
    arrays["error"] = pa.array([row.error for row in rows], pa.string())
    arrays["error_code"] = pa.array([row.error_code for row in rows], pa.string())
    if labels is not None:
        arrays[SHARD_COLUMN] = pa.array([labels.label(row) for row in rows], SHARD_TYPE)
    return arrays
