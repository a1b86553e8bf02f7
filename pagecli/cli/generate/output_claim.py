"""The output of a job in one run's hands: locked, checked, and with the journal of an earlier run of the same job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pagecli.cli.generate.identity import IdentifiedJob
from pagecli.cli.terminal.console import Console
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import InputError, UsageError
from pagecli.jobs.journal.journal import Journal
from pagecli.jobs.journal.output_claim import Outcome, OutputClaim, claim_output
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
def claimed_output(output: str, overwrite: bool, signals: StopSignals) -> Iterator[OutputClaim | None]:
    """The claim, given up at the end; None for a stream. Raises UsageError, InputError if it cannot be written.

    A signal waits while the claim is made or given up, so that nothing half made is left.
    """
    if is_stream_output(output):
        check_writable(output, overwrite)
        yield None
        return
    place = remote_files.local_place(output)
    claim: OutputClaim | None = None
    try:
        with signals.deferred():
            claim = claim_output(place, create=False)
            if claim is None or completed_before(claim, output) is None:
                check_writable(output, overwrite)
                claim = claim or claim_output(place)
        if signals.received is not None:
            raise StopRequested(signals.received)
        yield claim
    finally:
        if claim is not None:
            with signals.deferred():
                claim.close()


def completed_before(claim: OutputClaim, output: str) -> Outcome | None:
    """How the job ended, if an earlier run put its output in place and was ended before it could remove the journal."""
    return None if remote_files.is_remote(output) else claim.earlier_outcome()


def open_journal(
    claim: OutputClaim | None, options: JournalOptions, job: Any, identified: IdentifiedJob | None, console: Console
) -> Journal | None:
    """The journal of `job` (a GenerateJob), if it is to have one. Raises UsageError, InputError."""
    if claim is None:
        return None
    if not options.enabled:
        if claim.has_earlier_rows and not options.restart:
            raise UsageError(
                f"{job.output} has finished rows of an earlier run", "leave out --no-journal to go on, or add --restart"
            )
        return None
    assert identified is not None
    journal = claim.open_journal(identified.identity, identified.weights, options.restart, job.columns.token_ids)
    for note in claim.notes:
        console.warning(note)
    if journal.num_rows:
        console.note(f"{journal.num_rows:,} rows were finished by an earlier run and are taken over")
    return journal


class TakingOver:
    """`prepare`, but for rows that are in the journal; every row of the input goes through it."""

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
        """After the last row: that none was finished before which the input no longer has. Raises InputError."""
        num_expected = 0 if self._journal is None else self._journal.finished.num_indexes
        if selection.limit is not None:
            shard = selection.shard or Shard(1, 1)
            num_expected = min(num_expected, -(-(selection.limit - shard.number + 1) // shard.count))
        if self._num_rows < num_expected:
            raise InputError(
                f"the input ended after {self._num_rows:,} rows; of an earlier run row {num_expected:,} is finished",
                "it was cut short: run the same command with the whole input again",
            )
