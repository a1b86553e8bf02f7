"""Parquet output in row groups. A group whose columns differ from those before starts a new temporary file (a segment);
if there is more than one at the end, they are copied, group by group, into one file with columns that hold them all."""

import contextlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.errors import InputError, PagecliError, first_line
from pagecli.jobs.rows.row import OutputRow, ResultColumns
from pagecli.jobs.shards.shard_labels import ShardLabels
from pagecli.jobs.storage.atomic_file import create_temporary, not_writable, partial_path, publish, remove
from pagecli.jobs.writers.parquet import Compression
from pagecli.jobs.writers.parquet.columns import JSON_TEXT, ArrowCarriedColumns, InferredColumns, result_arrays
from pagecli.jobs.writers.parquet.merge import Segment, merge_segments

GROUP_ROWS = 1000
GROUP_BYTES = 16 << 20
NOT_READABLE = "check the disk; or write JSON Lines"
FOOTER_BYTES = 1 << 20  # disk space kept free so that a file can always be closed


class ParquetRowWriter:
    """Writes rows into hidden files that become the output in finish(). Raises InputError when the disk refuses."""

    logs: tuple[str, ...] = ()  # what the output's name may have behind it, of a database

    def __init__(
        self,
        path: Path,
        suffix: str,
        overwrite: bool,
        columns: ResultColumns,
        input_schema: pa.Schema | None,
        warn: Callable[[str], None],
        compression: Compression = "zstd",
        row_group_rows: int | None = None,
        labels: ShardLabels | None = None,
    ) -> None:
        self._path = path
        self._suffix = suffix
        self._overwrite = overwrite
        self._columns = columns
        self._compression = compression
        self._group_rows = row_group_rows or GROUP_ROWS
        self._inferred = InferredColumns(warn)
        self._carried = ArrowCarriedColumns(input_schema) if input_schema is not None else None
        self._labels = labels
        self._rows: list[OutputRow] = []
        self._rows_bytes = 0
        self._segments: list[Segment] = []
        self._writer: pq.ParquetWriter | None = None
        self.num_rows = 0
        self._reserved: Path | None = _empty_temporary(path)  # an unwritable directory shows here, before the model loads

    def write(self, row: OutputRow) -> None:
        self._columns = self._columns.widened_for(row)
        self._rows.append(row)
        self._rows_bytes += row.num_bytes
        self.num_rows += 1
        if len(self._rows) >= self._group_rows or self._rows_bytes >= GROUP_BYTES:
            self._write_group()

    def finish(self) -> None:
        if self._rows or not self._segments:
            self._write_group()
        self._close_segment()
        complete = self._complete()
        check_footer(complete, self.num_rows, self._path)
        self._publish(complete, self._path, self._overwrite)
        self.discard()

    def _publish(self, complete: Path, final: Path, overwrite: bool) -> None:
        """Gives the complete file its name."""
        publish(complete, final, overwrite)

    def keep_partial(self) -> Path | None:
        """Keeps the rows written so far under a name of their own; None if there are none."""
        try:
            self._save_what_is_there()
            if not self._segments:
                return None
            return self._publish_partial(self._complete())
        except PagecliError:  # no room even for putting the pieces together: each is a valid file
            paths = [self._publish_partial(segment.path) for segment in self._segments]
            return paths[0] if paths else None
        finally:
            self.discard()

    def _publish_partial(self, temporary: Path) -> Path:
        path = partial_path(self._path, self._suffix, self.logs)
        self._publish(temporary, path, overwrite=False)
        return path

    def _save_what_is_there(self) -> None:
        try:
            if self._rows:
                self._write_group()
        except InputError:  # the disk is full: without the last group
            self._rows = []
        try:
            self._close_segment()
        except InputError:
            remove(self._segments.pop().path)

    def discard(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):  # nothing of it is kept
                self._writer.close()
            self._writer = None
        for segment in self._segments:
            remove(segment.path)
        if self._reserved is not None:
            remove(self._reserved)

    def _write_group(self) -> None:
        table = self._table(self._rows)
        _check_space(self._path, table.nbytes)
        try:
            if self._writer is None or table.schema != self._segments[-1].schema:
                self._close_segment()
                self._open_segment(table.schema)
            if self._rows:
                assert self._writer is not None
                self._writer.write_table(table, row_group_size=max(self._group_rows, table.num_rows))
        except (OSError, pa.ArrowException) as error:
            raise _write_error(self._path, error) from error
        self._rows = []
        self._rows_bytes = 0

    def _table(self, rows: list[OutputRow]) -> pa.Table:
        arrays = (self._carried or self._inferred).build(rows)
        fields = self._carried.fields() if self._carried is not None else {}
        arrays = {**arrays, **result_arrays(rows, self._columns, self._labels)}
        new = {name: JSON_TEXT if name in self._inferred.json_columns else None for name in arrays if name not in fields}
        fields |= {name: pa.field(name, arrays[name].type, metadata=metadata) for name, metadata in new.items()}
        schema = pa.schema([fields[name].with_name(name) for name in arrays])
        return pa.table(list(arrays.values()), schema=schema)

    def _open_segment(self, schema: pa.Schema) -> None:
        path, self._reserved = self._reserved or _empty_temporary(self._path), None
        self._segments.append(Segment(path, schema, frozenset(self._inferred.json_columns)))
        self._writer = pq.ParquetWriter(path, schema, compression=self._compression, write_page_checksum=True)

    def _close_segment(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except (OSError, pa.ArrowException) as error:
                raise _write_error(self._path, error) from error

    def _complete(self) -> Path:
        """The file with all rows."""
        if len(self._segments) == 1:
            return self._segments[0].path
        path = _empty_temporary(self._path)
        try:
            check_space = partial(_check_space, self._path)
            schema = merge_segments(self._segments, path, self._inferred, check_space, self._compression)
        except (OSError, pa.ArrowException) as error:
            remove(path)
            raise _write_error(self._path, error) from error
        except BaseException:
            remove(path)
            raise
        for segment in self._segments:
            remove(segment.path)
        self._segments = [Segment(path, schema, frozenset(self._inferred.json_columns))]
        return path


def check_footer(written: Path, num_rows: int, shown: Path) -> None:
    """That a file which is to become `shown` opens, and has all rows. Raises InputError."""
    try:
        with pq.ParquetFile(written) as file:
            found = file.metadata.num_rows
    except FileNotFoundError as error:
        raise not_writable(shown, error) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown}: what was written cannot be read back: {first_line(error)}", NOT_READABLE) from error
    if found != num_rows:
        raise InputError(f"{shown}: {found:,} rows can be read back of the {num_rows:,} that were written", NOT_READABLE)


def _empty_temporary(final: Path) -> Path:
    path, file = create_temporary(final)
    file.close()
    return path


def _check_space(path: Path, num_bytes: int) -> None:
    """Raises InputError while there is still room to close the file properly."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:  # the directory is gone
        raise not_writable(path, error) from error
    if free < num_bytes + FOOTER_BYTES:
        raise not_writable(path, OSError(28, os.strerror(28)))


def _write_error(path: Path, error: Any) -> PagecliError:
    if isinstance(error, OSError):
        return not_writable(path, error)
    return InputError(f"{path} cannot be written: {first_line(error)}")
