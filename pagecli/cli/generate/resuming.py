"""A job that resumes an earlier run, or that a later one can resume: finished rows are taken over, and saved at an early end.

A new job that runs to its end needs nothing of this.
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from pagecli.cli.generate.job import GenerateJob, JournalOptions
from pagecli.cli.terminal.console import Console
from pagecli.core import file_targets
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ExitCode, InputError, PagecliError, UsageError, reason_of
from pagecli.jobs.journal.journal import Journal
from pagecli.jobs.journal.locked_output import LockedOutput
from pagecli.jobs.rows.row import InputRow, InputSource
from pagecli.jobs.rows.row_preparer import PreparedRow
from pagecli.jobs.rows.row_selection import RowSelection, Shard
from pagecli.jobs.run.job_loop import JobRun, RunResult
from pagecli.jobs.run.stop_signals import StopSignals
from pagecli.jobs.storage.redaction import redact
from pagecli.jobs.writers.open_output import STANDARD_OUTPUT, RowWriter, is_stdout, is_stream_output

if TYPE_CHECKING:
    from pagecli.jobs.readers.output_reader import GoodRows


def say_earlier_rows(
    locked: LockedOutput, journal: Journal | None, output: str, options: JournalOptions, console: Console
) -> None:
    """Says what an earlier run left for this one. Raises UsageError if it is finished rows, and there is to be no journal."""
    if not options.enabled and locked.has_earlier_rows and not options.restart:
        raise UsageError(f"{output} has finished rows of an earlier run", "leave out --no-journal to resume, or add --restart")
    for note in locked.notes:
        console.warning(note)
    if journal is not None and journal.num_rows:
        console.note(f"{journal.num_rows:,} rows were finished by an earlier run and are taken over")


class ResumedRows:
    """Prepares every row of the input: the journal's output for rows it has, `prepare` for the others.

    `earlier`: a finished output, whose good rows stay.
    """

    def __init__(
        self,
        prepare: Callable[[InputRow], PreparedRow],
        journal: Journal | None,
        params: SamplingParams,
        earlier: "GoodRows | None" = None,
    ) -> None:
        self._prepare = prepare
        self._earlier = earlier
        self._journal = journal if journal is not None and journal.num_rows else None
        self._params = params
        self._num_rows = 0

    def __call__(self, row: InputRow) -> PreparedRow:
        self._num_rows = row.index + 1
        finished = None if self._journal is None else self._journal.take(row)
        if self._earlier is not None:
            finished = self._earlier.take(row) or finished
        return self._prepare(row) if finished is None else PreparedRow(row, [], self._params, 0, finished=finished)

    def check_complete(self, selection: RowSelection) -> None:
        """To be called after the last row: checks that the input still has every row the journal has. Raises InputError."""
        if self._earlier is not None:
            self._earlier.check_end()
        finished = None if self._journal is None else self._journal.finished
        num_expected = 0 if finished is None else finished.num_indexes
        if selection.limit is not None:
            shard = selection.shard or Shard(1, 1)
            num_expected = min(num_expected, -(-(selection.limit - shard.number + 1) // shard.count))
        if self._num_rows < num_expected:
            raise InputError(
                f"the input ended after {self._num_rows:,} rows; of an earlier run row {num_expected:,} is finished",
                "it was cut short: run the same command with the whole input again",
            )


def with_earlier_output(job: GenerateJob, stack: ExitStack) -> "tuple[GenerateJob, GoodRows | None]":
    """The job with its finished output's digest and optional columns, and that output's good rows; None: it has no error row.

    Raises UsageError, InputError.
    """
    from pagecli.jobs.journal.job_identity import sample_digest
    from pagecli.jobs.readers.output_reader import FLAG, FinishedOutput, GoodRows

    refused = {"--overwrite": job.overwrite, "--order completion": job.order != "input", "--partial": job.journal.partial}
    for flag, is_given in refused.items():
        if is_given:
            raise UsageError(f"{FLAG} does not go with {flag}", f"leave out {flag}")
    if is_stream_output(job.output) or file_targets.is_remote(job.output):
        raise UsageError(f"{job.output}: {FLAG} needs an output that is a file on this machine", "name a file")
    path = file_targets.local_output_path(job.output)
    with closing(FinishedOutput(path)) as output:
        num_error_rows = output.num_error_rows()
    if not num_error_rows:
        return job, None
    output = stack.enter_context(closing(FinishedOutput(path)))
    changed = replace(job, columns=output.widened(job.columns), retry_errors=sample_digest(path))
    return changed, GoodRows(output)


def keep_finished(run: JobRun, writer: RowWriter, locked: LockedOutput | None, console: Console, job: GenerateJob) -> str:
    """Saves the finished rows: in the journal, or without one as a .partial file. Prints where, and how to resume.

    Returns the summary's text for the output.
    """
    result = run.result
    why = stop_reason(result)
    if locked is not None and locked.has_journal:
        num_rows = locked.save()
        if num_rows:
            kept = f"the finished rows of this job are kept ({num_rows:,} input rows)"
            console.error(f"{why}; {kept}" if why else kept, how_to_resume(job.input))
        elif why:
            console.error(f"{why}; no row was finished")
        return "not there yet; the journal has the finished rows" if num_rows else "none"
    guarded(run.keep_finished, console)
    path = writer.keep_partial()
    if path is not None:
        console.error(f"{why or 'the job did not end'}; its {result.num_rows} finished rows are in {path}")
        return str(path)
    if why:
        console.error(why)
    return "none" if locked is not None else shown_stream(job.output)


def shown_stream(output: str) -> str:
    """The summary's text for an output that is a stream."""
    return STANDARD_OUTPUT if is_stdout(output) else output


def stop_reason(result: RunResult) -> str | None:
    """Why a run ended before its input did; None if an error ended it, which is reported elsewhere."""
    if result.stopped_by is not None:
        return f"stopped by {signal.Signals(result.stopped_by).name}"
    if result.too_many_errors is not None:
        return f"stopped: {result.too_many_errors}; the first, {result.first_error}"
    return None


def how_to_resume(input_path: str) -> str:
    """The command that continues the job: this one, without --restart and without secrets."""
    command = _this_command("--restart")
    return (
        f"pipe the same rows to it again to resume: {command}"
        if file_targets.is_stream(input_path)
        else f"resume with: {command}"
    )


def how_to_retry(job: GenerateJob) -> str | None:
    """The command that runs the error rows of the finished output again; None where --retry-errors does not take it."""
    from pagecli.jobs.readers.output_reader import FLAG, FinishedOutput

    if job.score is not None or job.embed is not None or job.order != "input" or file_targets.is_stream(job.input):
        return None
    if is_stream_output(job.output) or file_targets.is_remote(job.output):
        return None
    try:
        FinishedOutput(file_targets.local_output_path(job.output)).close()
    except PagecliError:  # such as a batch file
        return None
    return f"{_this_command('--overwrite', '--restart', FLAG)} {FLAG}"


def _this_command(*without: str) -> str:
    return redact(shlex.join(["pagecli", *(argument for argument in sys.argv[1:] if argument not in without)]))


def save_at_deadline(locked: LockedOutput | None, input_path: str, signum: int) -> None:
    """Saves the finished rows and prints how to resume: for the watchdog, in another thread than the job."""
    text = f"error: ended by {signal.Signals(signum).name} in the middle of a step"
    if locked is not None and locked.has_journal:
        num_rows = locked.save_from_outside()
        text += f"; {num_rows:,} finished rows are kept\nhint: {how_to_resume(input_path)}"
    os.write(2, f"{text}\n".encode())


def say_stopped_loading(
    error: BaseException, locked: LockedOutput | None, console: Console, input_path: str, signals: StopSignals
) -> None:
    """After an error while the model was loaded: if a signal caused it, syncs an earlier run's rows, prints how to resume and
    raises StopRequested."""
    request = signals.request_in(error)
    if request is None:
        return
    num_rows = 0 if locked is None else locked.save()
    why = f"stopped by {signal.Signals(request.signum).name} while loading"
    if num_rows:
        console.error(f"{why}; {num_rows:,} finished rows are kept", how_to_resume(input_path))
    else:
        console.error(f"{why}; no row was finished")
    if request is not error:
        raise request from error


def guarded(action: Callable[[], object], console: Console) -> None:
    """Run `action`, which saves after an error; an error of its own (the disk is still full) is only logged."""
    try:
        action()
    except (PagecliError, OSError) as error:
        console.detail(f"while saving finished rows: {reason_of(error)}")


def write_partial(source: InputSource, writer: RowWriter, journal: Journal | None, console: Console, output: str) -> int:
    """--partial: the rows that a stopped job has finished so far, as a file to read; nothing is generated.

    Writes them in the input's order to OUTPUT's .partial file; the journal stays. Raises UsageError if there are none.
    """
    if journal is None or not journal.num_rows:
        raise UsageError(f"{output} has no journal with finished rows", "--partial is for a job that was stopped")
    num_found = 0
    for row in source:
        for finished in journal.take(row) or ():
            writer.write(finished)
            num_found += 1
    path = writer.keep_partial()
    console.note(f"{num_found:,} finished rows are in {path}; the job itself resumes without --partial")
    return ExitCode.OK
