"""`--partial`: the rows that a stopped job has finished so far, as a file to look at; nothing is generated."""

from pagecli.cli.terminal.console import Console
from pagecli.errors import ExitCode, UsageError
from pagecli.jobs.journal.journal import Journal
from pagecli.jobs.rows.input_row import InputSource
from pagecli.jobs.writers.open_output import RowWriter


def write_partial(source: InputSource, writer: RowWriter, journal: Journal | None, console: Console, output: str) -> int:
    """Writes them in the input's order to OUTPUT's .partial file; the journal stays. Raises UsageError if there are none."""
    if journal is None or not journal.num_rows:
        raise UsageError(f"{output} has no journal with finished rows", "--partial is for a job that was stopped")
    num_found = 0
    for row in source:
        for finished in journal.take(row) or ():
            writer.write(finished)
            num_found += 1
    path = writer.keep_partial()
    console.note(f"{num_found:,} finished rows are in {path}; the job itself goes on without --partial")
    return ExitCode.OK
