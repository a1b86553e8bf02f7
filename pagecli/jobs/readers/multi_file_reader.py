"""Several files as one input: a directory or a pattern, in the order of their names, rows counted on from file to file.

Columns may be in the names of folders, as Hive, Spark and others write them: lang=en/year=2024/part-0.parquet.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from pagecli.core import file_targets
from pagecli.errors import InputError, first_line
from pagecli.jobs.readers.parquet_reader import ParquetSource, open_parquet, plain_schema
from pagecli.jobs.readers.text_input import MAX_ROW_BYTES, FileVersion
from pagecli.jobs.rows.row import InputRow, InputSource, RowEstimate

NULL = "__HIVE_DEFAULT_PARTITION__"
PartitionColumns = dict[str, int | str | None]


def partition_columns(path: str, files: list[str]) -> dict[str, PartitionColumns]:
    """File -> its columns by the folders between the directory `path` and it; where `path` is a pattern, by all that it names.

    A column whose values are all integers has integers (so that month=01 is 1), as in Spark, DuckDB and Arrow.
    """
    texts = {file: dict(_pairs(_folders(path, file))) for file in files}
    names = dict.fromkeys(name for columns in texts.values() for name in columns)
    found: dict[str, PartitionColumns] = {file: {} for file in files}
    for name in names:
        values = {file: columns.get(name) for file, columns in texts.items()}
        given = [value for value in values.values() if value is not None]
        are_integers = bool(given) and all(re.fullmatch(r"-?\d{1,18}", value, re.ASCII) for value in given)
        for file, value in values.items():
            found[file][name] = int(value) if are_integers and value is not None else value
    return found


def _folders(path: str, file: str) -> list[str]:
    is_directory = path.endswith("/") if file_targets.is_remote(path) else os.path.isdir(path)
    below = file[len(path.rstrip("/")) :] if is_directory else file
    return below.split("/")[:-1]


def _pairs(folders: list[str]) -> list[tuple[str, str | None]]:
    split = [folder.partition("=") for folder in folders]
    return [
        (_text(unquote(name)), None if value == NULL else _text(unquote(value))) for name, sign, value in split if name and sign
    ]


def _text(name: str) -> str:
    """A name of the file system that may have bytes which are no UTF-8, as a text of a row."""
    return name.encode("utf-8", "replace").decode("utf-8")


class MultiFileSource:
    """Opens its files one after the other by `open_one(path, limit)`. Raises InputError.

    Columns that are in the names of folders are added to the rows that do not have them.
    """

    def __init__(
        self, name: str, paths: list[str], open_one: Callable[[str, int | None], InputSource], limit: int | None = None
    ) -> None:
        self.name = file_targets.shown(name)
        self._paths = paths
        self._partitions = partition_columns(name, paths)
        self._open_one = open_one
        self._limit = limit
        self._sizes = [_file_bytes(path) for path in paths]
        self._versions = {path: FileVersion.of_input(path) for path in paths}  # before any is read
        self._current: InputSource = open_one(paths[0], limit)  # so that a bad first file is found before the model loads
        self._num_files = 0  # read to their end
        self._num_rows = 0  # of those
        self._stopped = False
        self.schema: pa.Schema | None = self._current.schema
        names = self._current.column_names
        self.column_names = None if names is None else [*dict.fromkeys((*names, *self._partitions[paths[0]]))]

    def __iter__(self) -> Iterator[InputRow]:
        base = os.path.commonpath([os.path.dirname(path) for path in self._paths]) if len(self._paths) > 1 else ""
        for number, path in enumerate(self._paths):
            remaining = None if self._limit is None else self._limit - self._num_rows
            if self._stopped or remaining == 0:
                return
            if number > 0:
                self._check_version(path)
                self._current = self._open_one(path, remaining)
            shown = _text(os.path.relpath(path, base) if base else os.path.basename(path))
            count = 0
            try:
                for row in self._current:
                    error = None if row.error is None else f"{shown}, {row.error}"
                    columns = _with_partition(row.columns, self._partitions[path])
                    yield dataclasses.replace(row, columns=columns, index=self._num_rows + row.index, file=shown, error=error)
                    count += 1
                self._current.check_unchanged()
            finally:
                self._current.close()
            self._num_rows += count
            self._num_files += 1

    def estimate(self) -> RowEstimate | None:
        """Exact once all files are read; before that as if the files to come had as many rows a byte as those seen."""
        if self._num_files == len(self._paths):
            return RowEstimate(self._num_rows, exact=True)
        current = self._current.estimate()
        if current is None:
            return None
        num_seen = min(self._num_files + 1, len(self._paths))
        estimate = (self._num_rows + current.num_rows) * sum(self._sizes) // max(1, sum(self._sizes[:num_seen]))
        return RowEstimate(estimate if self._limit is None else min(estimate, self._limit), exact=False)

    def check_unchanged(self) -> None:
        """Of every file that was read."""
        for path in self._paths[: self._num_files + 1]:
            self._check_version(path)

    def _check_version(self, path: str) -> None:
        version = self._versions[path]
        if version is not None:
            version.check(path)

    def interrupt(self) -> None:
        self._stopped = True
        self._current.interrupt()

    def close(self) -> None:
        self._current.close()


def _with_partition(columns: Mapping[str, Any], partition: PartitionColumns) -> Mapping[str, Any]:
    """The file's own columns first, which win; a Parquet reader has added the others already."""
    return columns if all(name in columns for name in partition) else {**columns, **_missing(columns, partition)}


def _missing(columns: Iterable[str], partition: PartitionColumns) -> PartitionColumns:
    return {name: value for name, value in partition.items() if name not in columns}


def _file_bytes(path: str) -> int:
    """The file's size; 1 where it costs a request to a store, so that such files count alike."""
    try:
        return 1 if file_targets.is_remote(path) else os.stat(file_targets.local(path)).st_size
    except OSError:  # gone since it was listed: said when it is opened
        return 0


class MultiParquetSource(MultiFileSource):
    """Parquet files; their columns are brought together: a column that a file lacks is null, numbers widen."""

    def __init__(self, name: str, paths: list[str], limit: int | None = None, max_row_bytes: int = MAX_ROW_BYTES) -> None:
        schema: pa.Schema | None = None
        self._total = 0
        for path in paths:
            with open_parquet(path) as file:
                self._total += file.metadata.num_rows
                own = plain_schema(file.schema_arrow).remove_metadata()
            if schema is not None and own != schema:
                own = _unified(schema, own, path)
            schema = own
        assert schema is not None
        partitions = partition_columns(name, paths)
        schema = _with_partitions(schema, partitions)

        def open_one(path: str, limit: int | None) -> ParquetSource:
            return ParquetSource(path, limit, schema, partitions[path], max_row_bytes)

        super().__init__(name, paths, open_one, limit)
        self.column_names = schema.names

    def estimate(self) -> RowEstimate | None:
        return RowEstimate(self._total if self._limit is None else min(self._total, self._limit), exact=True)


def _with_partitions(schema: pa.Schema, partitions: dict[str, PartitionColumns]) -> pa.Schema:
    """The schema with the columns of `partitions` that no file has."""
    kinds: dict[str, pa.DataType] = {}
    for columns in partitions.values():
        for name, value in _missing(schema.names, columns).items():
            kinds[name] = pa.int64() if isinstance(value, int) else kinds.get(name, pa.string())
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in kinds.items())])


def _unified(schema: pa.Schema, own: pa.Schema, path: str) -> pa.Schema:
    try:
        return pa.unify_schemas([schema, own], promote_options="permissive")
    except pa.ArrowException as error:
        reason = first_line(error)
        raise InputError(
            f"{file_targets.shown(path)} has columns that do not go with those of the files before it: {reason}",
            "give files of one schema, or one pattern for each kind",
        ) from error
