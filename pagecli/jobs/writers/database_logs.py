"""Logs that a database program has beside its file: whoever opens that name next reads them into whatever file has it by then.

One beside the name of an output, as a program leaves it that has the database open or was killed, stands in the way as the
database itself does, and goes with it where that is replaced.
"""

import os
from pathlib import Path

from pagecli.errors import UsageError
from pagecli.jobs.storage.atomic_file import check_output, not_writable, publish

LOGS = {".duckdb": (".wal",), **dict.fromkeys((".sqlite", ".sqlite3", ".db"), ("-journal", "-wal", "-shm"))}


def check_no_logs(path: Path, suffix: str, overwrite: bool) -> None:
    """Raises UsageError if a log is in the way of a new database."""
    for log in () if overwrite else _logs_of(path, suffix):
        check_output(log, overwrite)


def publish_database(temporary: Path, final: Path, suffix: str, overwrite: bool) -> None:
    """As `publish`, without the logs of the database that had the name. Raises UsageError, InputError."""
    for log in filter(os.path.lexists, _logs_of(final, suffix)):
        if not overwrite:
            raise UsageError(f"{log} was created by another process meanwhile", "move it away, then run the same command again")
        try:
            log.unlink()  # first: a kill between the two leaves no log beside the new file
        except OSError as error:
            raise not_writable(final, error) from error
    publish(temporary, final, overwrite)


def _logs_of(path: Path, suffix: str) -> list[Path]:
    return [Path(f"{path}{end}") for end in LOGS[suffix]]
