"""DuckDB output: one database file with a table `rows`, nested types kept. Needs the package duckdb.

Rows are written as Parquet, whose columns may widen as rows come; the complete file becomes the table.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pagecli.errors import InputError, first_line
from pagecli.jobs.storage.atomic_file import create_temporary, remove
from pagecli.jobs.writers.database_logs import LOGS, publish_database
from pagecli.jobs.writers.parquet.writer import ParquetRowWriter

SUFFIXES = (".duckdb",)
TABLE = "rows"


def check_installed() -> Any:
    """The package. Raises InputError."""
    try:
        import duckdb
    except ImportError as error:
        raise InputError("a .duckdb output needs a package that is not installed", "pip install pagecli[duckdb]") from error
    return duckdb


class DuckdbRowWriter(ParquetRowWriter):
    """A ParquetRowWriter whose complete file becomes a table."""

    logs = LOGS[".duckdb"]

    def _publish(self, complete: Path, final: Path, overwrite: bool) -> None:
        temporary, file = create_temporary(self._path)  # in the directory of its job, of which `final` may be a part
        file.close()
        remove(temporary)  # DuckDB makes its file itself, and a log beside it while it writes
        log = temporary.with_name(f"{temporary.name}.wal")
        duckdb = check_installed()
        try:
            with duckdb.connect(str(temporary)) as database:
                database.execute("SET preserve_insertion_order = true")
                database.execute(f"CREATE TABLE {TABLE} AS SELECT * FROM read_parquet(?)", [str(complete)])
                database.execute("CHECKPOINT")  # close() says nothing of what the file did not take
            remove(log)
            with duckdb.connect(str(temporary), read_only=True) as database:
                (found,) = database.execute(f"SELECT count(*) FROM main.{TABLE}").fetchone()
        except duckdb.Error as error:
            remove(log)
            remove(temporary)
            message = first_line(error)
            raise InputError(f"{final} cannot be written: {message}", "check the disk; or write Parquet") from error
        num_rows = pq.read_metadata(complete).num_rows
        if found != num_rows:
            raise InputError(f"{final}: {found:,} rows can be read back of the {num_rows:,} that were written")
        remove(complete)
        publish_database(temporary, final, self._suffix, overwrite)
