"""The state of a running job for `pagecli status`: `heartbeat.json` in the job's directory, replaced about once a second.

It is for display only: no job depends on it, so it is not synced to the disk, and a damaged one counts as none.
"""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from pagecli.errors import PagecliError
from pagecli.jobs.monitoring.snapshot import Event, JobSnapshot
from pagecli.jobs.storage.job_directory import HEARTBEAT, JobDirectory

HEARTBEAT_SECONDS = 1.0
MAX_BYTES = 1 << 16
LEFT_OUT = ("input", "output", "model", "error", "engine", "stats")  # long, or of no use to status
FIELDS = tuple(field.name for field in fields(JobSnapshot) if field.name not in LEFT_OUT)


class Heartbeat:
    """The listener that writes the file; made once the job's directory is there. Raises InputError, UsageError."""

    interval = HEARTBEAT_SECONDS
    name = "the heartbeat for pagecli status"

    def __init__(self, output: Path) -> None:
        self._directory = JobDirectory(output, create=False)

    def on_event(self, event: Event, job: JobSnapshot) -> None:
        """Raises OSError. A directory that has gone meanwhile belonged to a job that is complete."""
        if event in ("begin", "checkpoint"):
            return
        try:
            self._write(job)
        except FileNotFoundError:
            if self._directory.is_current():
                raise

    def _write(self, job: JobSnapshot) -> None:
        if not self._directory.is_current():
            return
        fd = self._directory.open(f"{HEARTBEAT}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps({name: getattr(job, name) for name in FIELDS}).encode("ascii"))
        folder = self._directory.path
        os.replace(folder / f"{HEARTBEAT}.new", folder / HEARTBEAT)

    def close(self) -> None:
        self._directory.close()


def read_heartbeat(output: Path) -> JobSnapshot | None:
    """The last heartbeat of the job of `output`; None if there is none that can be read."""
    try:
        directory = JobDirectory(output, create=False)
    except PagecliError:
        return None
    try:
        with os.fdopen(directory.open(HEARTBEAT, os.O_RDONLY), "rb") as file:
            values = json.loads(file.read(MAX_BYTES))
        found = {name: value for name, value in values.items() if name in FIELDS}
        return JobSnapshot(**found) if _is_sound(found) else None
    except (OSError, ValueError, TypeError, AttributeError, PagecliError):
        return None
    finally:
        directory.close()


def _is_sound(values: dict[str, Any]) -> bool:
    """Whether every value is of its field's type, as in a file that pagecli wrote."""
    empty = JobSnapshot()
    numbers = {"num_rows_total": int, "eta_seconds": float, "checkpoint_rows": int, "checkpoint_at": float, "exit_code": int}
    for name, value in values.items():
        default = getattr(empty, name)
        wanted = numbers[name] if default is None else type(default)
        number_for_float = wanted is float and type(value) is int
        if not (type(value) is wanted or number_for_float or (value is None and default is None)):
            return False
    return True
