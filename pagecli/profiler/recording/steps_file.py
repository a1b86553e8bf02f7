"""steps.parquet: one row a step, one column a field of StepRecord, written in row groups during the run."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.errors import InputError, reason_of
from pagecli.profiler.recording.records import StepRecord

SCHEMA_VERSION = 1
_TYPES = {int: pa.int64(), float: pa.float64()}


def _schema(metadata: Mapping[str, object]) -> pa.Schema:
    columns = [pa.field(f.name, _TYPES[f.type], nullable=False) for f in dataclasses.fields(StepRecord)]  # type: ignore[index]
    about = {"schema_version": SCHEMA_VERSION, **metadata}
    return pa.schema(columns, metadata={"pagecli": json.dumps(about, default=str)})


class StepsFile:
    """The file, open for writing; it can be read once it is closed. Raises InputError if it cannot be written."""

    def __init__(self, path: Path, metadata: Mapping[str, object]) -> None:
        self._path = path
        self._schema = _schema(metadata)
        try:
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        except OSError as error:
            raise self._not_written(error) from error

    def write(self, rows: list[tuple[Any, ...]]) -> None:
        """One row group; a row has the fields of StepRecord in order."""
        columns = zip(*rows, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        try:
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        except OSError as error:
            raise self._not_written(error) from error

    def close(self) -> None:
        try:
            self._writer.close()
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> InputError:
        return InputError(f"{self._path} cannot be written: {reason_of(error)}", "write the steps to another place")


def read_steps(path: Path) -> Iterator[StepRecord]:
    """The steps of a file that was closed, in order, a row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            columns = [column.to_pylist() for column in file.read_row_group(group).columns]
            yield from (StepRecord(*values) for values in zip(*columns, strict=True))
