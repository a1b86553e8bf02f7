"""The progress of an output's job, read from its journal by another process: takes no lock, changes nothing."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecli.jobs.journal.job_lock import LockOwner, read_owner
from pagecli.jobs.journal.journal import JournalContents
from pagecli.jobs.storage.job_directory import JobDirectory, job_directory_path, read_outcome


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """Counts of what is in the journal: rows that are safe whatever happens to the process."""

    job: dict[str, Any]  # the job's identity (job_identity.py); empty if it cannot be read
    num_input_rows: int  # input rows that are finished
    num_rows: int  # output rows of them
    num_error_rows: int
    last_row_at: float | None  # seconds since 1970; when the journal last grew
    owner: LockOwner | None  # the process that runs it, or ran it when killed; None: it ended by itself
    is_running: bool | None  # None: on another host, cannot be told
    is_complete: bool  # the output is complete; only the journal was not removed


def read_journal_status(output: Path) -> JournalStatus | None:
    """None if `output` has no journal: its job is complete, or was never begun. Raises InputError, UsageError.

    Reads the whole journal: about a second for a million rows.
    """
    if not os.path.lexists(job_directory_path(output)):
        return None
    directory = JobDirectory(output, create=False)
    try:
        owner = read_owner(directory)
        contents = JournalContents(directory)
        contents.close()
        return JournalStatus(
            job=contents.job or {},
            num_input_rows=contents.num_input_rows,
            num_rows=contents.num_rows,
            num_error_rows=contents.num_error_rows,
            last_row_at=contents.last_row_at,
            owner=owner,
            is_running=False if owner is None else (owner.is_running if owner.is_here else None),
            is_complete=read_outcome(directory)[1],
        )
    finally:
        directory.close()
