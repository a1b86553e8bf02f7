"""One run's exclusive access to an output: the lock, the journal of an earlier run if there is one, and the completion.

    locked = lock_output(path)              only one run may write this output; a killed run's temporaries are removed
    journal = locked.open_journal(...)      the finished rows of the same job, or an empty journal
    ...                                     rows are computed, journaled, written
    locked.note_outcome(...)                every row is in the journal
    writer.finish()                         the output gets its name
    locked.complete()                       the journal is to be removed
    locked.close()                          always: removes the journal or keeps it

Killed at any point, the next run resumes there: before the output has its name, with the rows in the journal; after
that, `earlier_outcome` finds that nothing is left to do. Only if it was killed in the last moment, when all traces of the job
are gone, does the next run find just an output that exists, and refuse to replace it as it always does.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pagecli
from pagecli.core import file_targets
from pagecli.errors import InputError, UsageError, reason_of
from pagecli.jobs.journal.job_lock import JobLock
from pagecli.jobs.journal.journal import Journal, JournalContents
from pagecli.jobs.run.stop_signals import StopRequested, StopSignals
from pagecli.jobs.storage.atomic_file import not_writable
from pagecli.jobs.storage.job_directory import (
    LOCK,
    DirectoryGoneError,
    JobDirectory,
    job_directory_path,
    note_outcome,
    read_outcome,
)
from pagecli.jobs.writers.open_output import check_writable, is_stream_output

if TYPE_CHECKING:
    from pagecli.jobs.journal.content_digests import ContentDigests

FORMAT = 3
_OLD_FILES = ("job.json", "rows")  # of formats 1 and 2
MAX_LOCK_TRIES = 10
DIGEST_AFTER_SECONDS = 20.0  # after which the weights' contents are digested: losing such a job would hurt


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended whose output is in place."""

    exit_code: int
    num_rows: int
    num_error_rows: int


class LockedOutput:
    """An output locked by this run; made by `lock_output`. `is_new`: earlier runs have left nothing of a job."""

    def __init__(self, directory: JobDirectory, lock: JobLock, is_new: bool) -> None:
        self.output = directory.output
        self.is_new = is_new
        self.outcome: Outcome | None = None  # of an earlier run that completed the output
        self.created = int(time.time())  # when the job was begun, by the run that began it: seconds since 1970
        self.notes: list[str] = []  # warnings about the journal of an earlier run
        self._directory = directory
        self._lock = lock
        self._journal: Journal | None = None
        self._job: dict[str, Any] = {}  # the journal's description of the job
        self._contents = None if is_new else JournalContents(directory)  # of earlier runs
        self._digests: ContentDigests | None = None
        self._is_complete = False

    @property
    def has_journal(self) -> bool:
        return self._journal is not None

    def earlier_outcome(self) -> Outcome | None:
        """The outcome of an earlier run that completed the output but was ended before it removed the journal; else None."""
        noted, is_in_place = read_outcome(self._directory)
        if noted is None or not is_in_place:
            return None
        return Outcome(int(noted["exit_code"]), int(noted["num_rows"]), int(noted["num_error_rows"]))

    @property
    def template_time(self) -> str | None:
        """The time that chat templates see in every run of the job; None if the template shows none, or without a journal."""
        return self._job["identity"]["time"] if self._job else None

    @property
    def has_earlier_rows(self) -> bool:
        """Whether earlier runs finished rows, those of an older pagecli with other journal files included."""
        return self._contents is not None and (self._contents.num_input_rows > 0 or self._has_old_files)

    @property
    def _has_old_files(self) -> bool:
        return any(name in _OLD_FILES for name in self._directory.names())

    def open_journal(
        self, identity: Mapping[str, Any], weights: list[Path], restart: bool, with_token_ids: bool = True
    ) -> Journal:
        """The journal, with the rows of earlier runs of the job. Raises UsageError if it was another job, InputError.

        A journal of another job without finished rows is replaced. `weights` are the files that `identity` describes.
        """
        try:
            if self._contents is None or restart or not self._resumes(self._contents, identity, weights):
                self._begin(identity)
            self._weights, self._begun = weights, time.monotonic()
            self._journal = Journal(self._directory, self._job, self._contents, self._each_second, with_token_ids)
        except OSError as error:
            raise not_writable(self.output, error) from error
        return self._journal

    def _each_second(self) -> None:
        """In the journal's thread."""
        self._lock.heartbeat()
        entries = self._job["identity"]["weights"]
        is_old = time.monotonic() - self._begun >= DIGEST_AFTER_SECONDS
        if self._digests is None and is_old and any(entry["content"] is None for entry in entries):
            from pagecli.jobs.journal.content_digests import ContentDigests

            self._digests = ContentDigests(entries, self._weights, self._note_weights)

    def _note_weights(self, entries: list[dict[str, Any]]) -> None:
        self._job["identity"]["weights"] = entries
        if self._journal is not None:
            self._journal.set_job(self._job)

    def _resumes(self, contents: JournalContents, identity: Mapping[str, Any], weights: list[Path]) -> bool:
        """Whether an earlier run of this job left finished rows. Raises UsageError if it was another job, OSError."""
        if self._has_old_files:
            raise UsageError(
                f"the journal of {self.output} was written by an older pagecli, which this one cannot resume",
                f"finish the job with that pagecli, begin anew with --restart, or remove {self._directory.path}",
            )
        if not contents.num_input_rows:
            return False
        job = contents.job
        if job is None:
            self.notes.append("the journal is damaged: which job it is of cannot be read; all rows are computed again")
            return False
        if job.get("format") != FORMAT:
            raise UsageError(
                f"the journal of {self.output} was written by another version of pagecli ({job.get('version')})",
                f"finish the job with that version, begin anew with --restart, or remove {self._directory.path}",
            )
        self._check_same(job, identity, weights)
        self._job, self.created = job, int(job["created"])
        before = job["identity"]["weights"]  # new dates of the same content need not be looked into again
        job["identity"]["weights"] = [
            {**new, "content": old["content"]} for old, new in zip(before, identity["weights"], strict=True)
        ]
        return True

    def _check_same(self, job: Mapping[str, Any], identity: Mapping[str, Any], weights: list[Path]) -> None:
        from pagecli.jobs.journal.job_differences import differences, has_new_time

        changed = differences(job["identity"], identity, weights)
        if changed:
            texts = "; ".join(difference.text for difference in changed)
            remedies = [difference.remedy for difference in changed if difference.remedy is not None]
            as_begun = f"run it as it was begun{' (' + ', '.join(remedies) + ')' if remedies else ''} to resume"
            raise UsageError(
                f"{self.output} was begun by another job, whose finished rows are kept; what differs: {texts}",
                f"{as_begun}, begin anew with --restart, or write to another name",
            )
        if has_new_time(job["identity"], identity):
            self.notes.append("the input has a new date but the same content; finished rows are checked one by one")
        if job.get("version") != pagecli.__version__:
            self.notes.append(f"this job was begun by pagecli {job.get('version')}; its other rows are made by this version")

    def _begin(self, identity: Mapping[str, Any]) -> None:
        """Drops the rows of earlier runs and starts a new journal. Raises OSError."""
        if self._contents is not None:
            self._contents.close()
            self._directory.remove_contents()
            self._contents = None
        if identity["uses_time"] and identity["time"] is None:
            identity = {**identity, "time": datetime.now().isoformat(timespec="seconds")}
        job = {"format": FORMAT, "version": pagecli.__version__, "created": self.created}
        self._job = {**job, "identity": dict(identity)}

    def note_outcome(self, outcome: Outcome) -> None:
        """Note that every row is in the journal and how the job ends, before the output is complete. Raises InputError."""
        if self._journal is None:
            return
        self._journal.commit()
        values = {"num_rows": outcome.num_rows, "num_error_rows": outcome.num_error_rows}
        try:
            note_outcome(self._directory, {"exit_code": int(outcome.exit_code), **values})
        except OSError as error:
            raise not_writable(self.output, error) from error

    def complete(self) -> None:
        """Note that the output is complete: close() then removes the journal."""
        self._is_complete = True

    def save(self) -> int:
        """Syncs the finished rows to the disk; returns the number of their input rows. Raises InputError."""
        if self._journal is None:
            return 0
        self._journal.commit()
        self._journal.sync()
        return self._journal.num_rows

    def save_from_outside(self) -> int:
        """As `save`, from another thread than the job's: rows that the job has not committed are left out."""
        if self._journal is not None:
            self._journal.sync()
        self._directory.remove_temporaries()
        return 0 if self._journal is None else self._journal.num_rows

    def close(self) -> None:
        """Releases the output. The journal stays if the job is not complete and any row was finished."""
        has_rows = self.has_earlier_rows
        if self._journal is not None:
            has_rows = self._journal.num_rows > 0
            self._journal.close()
        if self._digests is not None:  # which the journal's thread has begun
            self._digests.close()
        if self._contents is not None:
            self._contents.close()
        keep = has_rows and not self._is_complete
        if keep:
            self._directory.remove_temporaries()
        else:
            self._directory.remove_itself()  # with the lock held: a run that waits for it finds the file gone, and tries again
        self._lock.release()
        self._directory.close()


@contextmanager
def locked_output(output: str, overwrite: bool, signals: StopSignals) -> Iterator[LockedOutput | None]:
    """The locked output, unlocked at the end; None for a stream. Raises UsageError, InputError if it cannot be written.

    Signals are deferred while the lock is taken or released, so that neither is left half done.
    """
    if is_stream_output(output):
        check_writable(output, overwrite)
        yield None
        return
    path = file_targets.local_output_path(output)
    locked: LockedOutput | None = None
    try:
        with signals.deferred():
            locked = lock_output(path, create=False)
            if locked is not None and not file_targets.is_remote(output):
                locked.outcome = locked.earlier_outcome()
            if locked is None or locked.outcome is None:
                check_writable(output, overwrite)
                if locked is None:
                    locked = lock_output(path)
                    check_writable(output, overwrite)  # a run that ended meanwhile may have written it
        if signals.received is not None:
            raise StopRequested(signals.received)
        yield locked
    finally:
        if locked is not None:
            with signals.deferred():
                locked.close()


def lock_output(output: Path, create: bool = True) -> LockedOutput | None:
    """Takes the lock of the output; None if it has no job and none is to be created.

    Raises UsageError if another run has it, or the path is a link or another user's; InputError if nothing can be created.
    """
    for _ in range(MAX_LOCK_TRIES):
        if not create and not os.path.lexists(job_directory_path(output)):
            return None
        locked = _try_to_lock(output, create)
        if locked is not None:
            return locked
    raise UsageError(f"{output}: other runs come and go", "see that only one is started at a time")


def _try_to_lock(output: Path, create: bool) -> LockedOutput | None:
    """None if the run that had it removed the directory just now."""
    try:
        directory = JobDirectory(output, create)
    except DirectoryGoneError:
        return None
    try:
        lock = JobLock(directory)
    except FileNotFoundError:
        directory.close()
        return None
    except OSError as error:
        directory.close()
        raise not_writable(output, error) from error
    except UsageError:
        directory.close()
        raise
    if not lock.is_current() or not directory.is_current():
        lock.release()
        directory.close()
        return None
    try:
        is_new = directory.names() == [LOCK]
        if not is_new:
            directory.remove_temporaries()
        return LockedOutput(directory, lock, is_new)
    except BaseException as error:
        lock.release()
        directory.close()
        if isinstance(error, OSError):
            raise InputError(f"the journal of {output} cannot be read: {reason_of(error)}", "try again") from error
        raise
