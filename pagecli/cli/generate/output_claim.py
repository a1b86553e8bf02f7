"""The output of a job in one run's hands: locked, checked, and with the journal of an earlier run of the same job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecli.cli.terminal.console import Console
from pagecli.devices.loading import resolve_dtype
from pagecli.errors import UsageError
from pagecli.jobs.journal.job_identity import job_identity
from pagecli.jobs.journal.journal import Journal
from pagecli.jobs.journal.output_claim import Outcome, OutputClaim, claim_output
from pagecli.jobs.rows.input_row import InputRow
from pagecli.jobs.rows.row_preparer import PreparedRow
from pagecli.jobs.run.stop_signals import StopRequested, StopSignals
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.byte_streams import is_stream
from pagecli.jobs.writers.open_output import check_writable, is_stdout
from pagecli.model.registry import resolve_model


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """`restart` drops what an earlier run finished; `partial` only writes that, and generates nothing."""

    enabled: bool = True
    restart: bool = False
    partial: bool = False


@contextmanager
def claimed_output(output: str, overwrite: bool, signals: StopSignals) -> Iterator[OutputClaim | None]:
    """The claim, given up at the end; None for standard output. Raises UsageError, InputError if it cannot be written.

    A signal waits while the claim is made or given up, so that nothing half made is left.
    """
    if is_stdout(output):
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


def open_journal(claim: OutputClaim | None, options: JournalOptions, job: Any, console: Console) -> Journal | None:
    """The journal of `job` (a GenerateJob), if it is to have one. Raises UsageError, InputError, ModelError."""
    if claim is None:
        return None
    if not options.enabled:
        if claim.num_journal_bytes() and not options.restart:
            raise UsageError(
                f"{job.output} has finished rows of an earlier run", "leave out --no-journal to go on, or add --restart"
            )
        return None
    source = resolve_model(job.engine.model, job.engine.load_format)
    dtype, kv_dtype = resolve_dtype(job.engine.dtype), job.engine.kv_dtype
    identity = job_identity(job, _input_files(job.input), source, dtype, kv_dtype)
    journal = claim.open_journal(identity, options.restart, job.columns.token_ids)
    for note in claim.notes:
        console.warning(note)
    if journal.num_rows:
        console.note(f"{journal.num_rows:,} rows were finished by an earlier run and are taken over")
    return journal


def taking_over(prepare: Callable[[InputRow], PreparedRow], journal: Journal | None, params: Any) -> Any:
    """`prepare`, but for rows that are in the journal."""
    if journal is None or not journal.num_rows:
        return prepare

    def prepare_or_take(row: InputRow) -> PreparedRow:
        finished = journal.take(row)
        return prepare(row) if finished is None else PreparedRow(row, [], params, 0, finished=finished)

    return prepare_or_take


def _input_files(path: str) -> list[str]:
    """The local files that an input consists of; none for streams and URLs, whose rows are checked one by one."""
    path = remote_files.local(path)
    if remote_files.is_remote(path) or is_stream(path):
        return []
    if Path(path).is_file():
        return [path]
    from pagecli.jobs.readers.multi_file_reader import files_of
    from pagecli.jobs.readers.open_input import CSV_SUFFIXES, JSONL_SUFFIXES, PARQUET_SUFFIXES

    return files_of(path, PARQUET_SUFFIXES + JSONL_SUFFIXES + CSV_SUFFIXES)
