"""A run's exclusive access to its output: locks it, checks it, opens the journal of an earlier run of the same job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pagecli.cli.generate.identity import IdentifiedJob
from pagecli.cli.terminal.console import Console
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import InputError, UsageError
from pagecli.jobs.journal.journal import Journal
from pagecli.jobs.journal.locked_output import LockedOutput, Outcome, lock_output
from pagecli.jobs.rows.input_row import InputRow
from pagecli.jobs.rows.row_preparer import PreparedRow
from pagecli.jobs.rows.row_selection import RowSelection, Shard
from pagecli.jobs.run.stop_signals import StopRequested, StopSignals
from pagecli.jobs.storage import remote_files
from pagecli.jobs.writers.open_output import check_writable, is_stream_output


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """`restart` drops what an earlier run finished; `partial` only writes that, and generates nothing."""

    enabled: bool = True
    restart: bool = False
    partial: bool = False


@contextmanager
def locked_output(output: str, overwrite: bool, signals: StopSignals) -> Iterator[LockedOutput | None]:
    """The locked output, unlocked at the end; None for a stream. Raises UsageError, InputError if it cannot be written.

    Signals are deferred while the lock is taken or released, so that neither is left half done.
    """
    if is_stream_output(output):
        check_writable(output, overwrite)
        yield None
        return
    path = remote_files.local_output_path(output)
    locked: LockedOutput | None = None
    try:
        with signals.deferred():
            locked = lock_output(path, create=False)
            if locked is None or completed_before(locked, output) is None:
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


def completed_before(locked: LockedOutput, output: str) -> Outcome | None:
    """How the job ended, if an earlier run put its output in path and was ended before it could remove the journal."""
    return None if remote_files.is_remote(output) else locked.earlier_outcome()


def open_journal(
    locked: LockedOutput | None, options: JournalOptions, job: Any, identified: IdentifiedJob | None, console: Console
) -> Journal | None:
    """The journal of `job` (a GenerateJob), if it is to have one. Raises UsageError, InputError."""
    if locked is None:
        return None
    if not options.enabled:
        if locked.has_earlier_rows and not options.restart:
            raise UsageError(
                f"{job.output} has finished rows of an earlier run", "leave out --no-journal to resume, or add --restart"
            )
        return None
    assert identified is not None
    journal = locked.open_journal(identified.identity, identified.weights, options.restart, job.columns.token_ids)
    for note in locked.notes:
        console.warning(note)
    if journal.num_rows:
        console.note(f"{journal.num_rows:,} rows were finished by an earlier run and are taken over")
    return journal


class ResumedRows:
    """Prepares every row of the input: the journal's output for rows it has, `prepare` for the others."""

    def __init__(self, prepare: Callable[[InputRow], PreparedRow], journal: Journal | None, params: SamplingParams) -> None:
        self._prepare = prepare
        self._journal = journal if journal is not None and journal.num_rows else None
        self._params = params
        self._num_rows = 0

    def __call__(self, row: InputRow) -> PreparedRow:
        self._num_rows = row.index + 1
        finished = None if self._journal is None else self._journal.take(row)
        return self._prepare(row) if finished is None else PreparedRow(row, [], self._params, 0, finished=finished)

    def check_complete(self, selection: RowSelection) -> None:
        """To be called after the last row: checks that the input still has every row the journal has. Raises InputError."""
        num_expected = 0 if self._journal is None else self._journal.finished.num_indexes
        if selection.limit is not None:
            shard = selection.shard or Shard(1, 1)
            num_expected = min(num_expected, -(-(selection.limit - shard.number + 1) // shard.count))
        if self._num_rows < num_expected:
            raise InputError(
                f"the input ended after {self._num_rows:,} rows; of an earlier run row {num_expected:,} is finished",
                "it was cut short: run the same command with the whole input again",
            )
