"""SQLite output: one file with a table `rows`. Lists and objects are JSON text, true and false 1 and 0, bytes blobs.

SQLite takes names of columns as equal that differ in case only: the second of two gets `_2` after it. Columns that JSON rows
bring later stand last; those beyond MAX_COLUMNS go, as an object in JSON text, into one.
"""

import decimal
import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pagecli.errors import InputError
from pagecli.jobs.rows.row import OTHER_COLUMNS, OutputRow, ResultColumns, json_default, record_of, to_json
from pagecli.jobs.storage.atomic_file import create_temporary, not_writable, partial_path, remove
from pagecli.jobs.writers.database_logs import LOGS, publish_database

SUFFIXES = (".sqlite", ".sqlite3", ".db")
TABLE = "rows"
MAX_COLUMNS = 1000  # SQLite itself takes 2,000


class SqliteRowWriter:
    """Writes rows into a hidden database that gets its name in finish(). Raises InputError when the disk refuses."""

    def __init__(self, path: Path, suffix: str, overwrite: bool, columns: ResultColumns) -> None:
        self._path = path
        self._suffix = suffix
        self._overwrite = overwrite
        self._columns = columns
        self._temporary, file = create_temporary(path)
        file.close()
        self._names: dict[str, str] = {}  # output name -> the column's name in the database
        self._taken: set[str] = set()
        self._statements: dict[tuple[str, ...], str] = {}
        self.num_rows = 0
        self._database = sqlite3.connect(self._temporary, isolation_level=None, check_same_thread=False)
        with self._refusals():
            for setting in ("journal_mode = OFF", "synchronous = OFF"):  # until it has its name no process reads the file
                self._database.execute(f"PRAGMA {setting}")
            self._database.execute("BEGIN")

    def write(self, row: OutputRow) -> None:
        record = self._bounded(record_of(row, self._columns))
        with self._refusals():
            self._have_columns(list(record))
            self._database.execute(self._insertion(tuple(record)), [_stored(value) for value in record.values()])
        self.num_rows += 1

    def _bounded(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with what is beyond the bound on columns in one."""
        new = [name for name in record if name not in self._names]
        others = new[max(0, MAX_COLUMNS - len(self._names)) :]
        others = [name for name in others if name not in self._columns.names] if len(others) else []
        if not others:
            return record
        kept = {name: value for name, value in record.items() if name not in others}
        return {**kept, OTHER_COLUMNS: {name: record[name] for name in others}}

    def _have_columns(self, names: list[str]) -> None:
        new = [name for name in names if name not in self._names]
        if not new:
            return
        is_first = not self._names
        for name in new:
            self._names[name] = self._free(name)
        quoted = [_quoted(self._names[name]) for name in new]
        if is_first:
            self._database.execute(f"CREATE TABLE {TABLE} ({', '.join(quoted)})")
            return
        for column in quoted:
            self._database.execute(f"ALTER TABLE {TABLE} ADD COLUMN {column}")

    def _free(self, name: str) -> str:
        """A name like this one that no column has in any case."""
        plain = name.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        number, free = 1, plain
        while free.lower() in self._taken:
            number += 1
            free = f"{plain}_{number}"
        self._taken.add(free.lower())
        return free

    def _insertion(self, names: tuple[str, ...]) -> str:
        if names not in self._statements:
            columns = ", ".join(_quoted(self._names[name]) for name in names)
            self._statements[names] = f"INSERT INTO {TABLE} ({columns}) VALUES ({', '.join('?' * len(names))})"
        return self._statements[names]

    def finish(self) -> None:
        self._close()
        publish_database(self._temporary, self._path, self._suffix, self._overwrite)

    def keep_partial(self) -> Path | None:
        if not self.num_rows:
            self.discard()
            return None
        self._close()
        path = partial_path(self._path, self._suffix, LOGS[self._suffix])
        publish_database(self._temporary, path, self._suffix, overwrite=False)
        return path

    def _close(self) -> None:
        with self._refusals():
            if not self._names:
                self._have_columns(["id", *self._columns.names])
            self._database.execute("COMMIT")
            (found,) = self._database.execute(f"SELECT count(*) FROM {TABLE}").fetchone()
            self._database.close()
        if found != self.num_rows:
            raise InputError(f"{self._path}: {found:,} rows can be read back of the {self.num_rows:,} that were written")

    def discard(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()
        remove(self._temporary)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Inside, what SQLite refuses is one line about the output."""
        try:
            yield
        except sqlite3.Error as error:
            if "full" in str(error):
                raise not_writable(self._path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
            raise InputError(f"{self._path} cannot be written: {error}", "check the disk; or write JSON Lines") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _stored(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, float | bytes):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, decimal.Decimal):
        return json_default(value)
    return to_json(value)
