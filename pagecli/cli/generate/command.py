"""`pagecli generate`: from its flags, the job."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from pagecli.cli.flags.distinct_files import check_generate_files
from pagecli.cli.flags.engine_and_sampling import options_command
from pagecli.cli.generate.options import GenerateOptions, MonitoringOptions
from pagecli.cli.settings import notes, with_origin
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.exit_codes import exit_code_of
from pagecli.errors import UsageError

if TYPE_CHECKING:
    from pagecli.cli.generate.job import GenerateJob

EPILOG = (
    "Exit codes: 0 every row good; 1 internal error; 2 wrong usage, or the output exists; 3 input unreadable or "
    "output not writable; 4 model cannot be loaded or does not fit; 5 finished, but with error rows, or stopped for them; 129, "
    "130 and 143 ended by SIGHUP, SIGINT or SIGTERM (finished rows are kept; the same command resumes it); 141 no process "
    "reads standard output any more."
)


@options_command(GenerateOptions)
def generate(context: typer.Context, options: GenerateOptions) -> int:
    """Generate text for every row of INPUT; write rows and text to OUTPUT.

    A row has a column prompt (text), messages (a chat) or prompt_token_ids,
    and perhaps an id. A column named like a sampling parameter (max_tokens,
    temperature, stop, ...) overrides the flag. All columns are carried over;
    one named like a column of the result (text, ...) as input_text, ...
    """
    return run_command(context, options)


def run_command(
    context: typer.Context,
    options: GenerateOptions,
    change: "Callable[[GenerateJob], GenerateJob]" = lambda job: job,
) -> int:
    """Runs a job by these options; returns its exit code.

    `change` makes the job one of another kind.
    """
    console = Console(options.quiet and not options.verbose, options.verbose)

    def run() -> int:
        monitoring = options.monitoring
        files = (options.input, options.output, options.model, options.stats, options.profile, monitoring)
        check_generate_files(*files, options.prompt_files)
        _open_log(monitoring, console)
        console.transient("starting")
        for line in notes(context):
            console.warning(line)
        try:
            options.engine_config(), options.sampling_params()  # before slow imports (pyarrow)
            from pagecli.cli.generate.job import generate_job

            job = change(generate_job(options))
        except UsageError as error:
            raise with_origin(error, context) from error
        if job.selection.shard is not None and job.selection.num_parts is not None and not job.dry_run:
            from pagecli.cli.generate.parts import run_parts

            return run_parts(job, console)
        from pagecli.cli.generate.run import run_generate

        return run_generate(job, console)

    return exit_code_of(run, console)


def _open_log(options: MonitoringOptions, console: Console) -> None:
    """Gives the console the log that was asked for. Raises InputError."""
    if options.log_file is None and not options.log_json:
        return
    from pagecli.jobs.monitoring.run_log import RunLog

    lowest_level = logging.DEBUG if console.verbose else logging.INFO
    if options.log_file is None and console.quiet:  # a log file has everything; on stderr --quiet means what it always means
        lowest_level = logging.ERROR
    console.log = RunLog(options.log_file, options.log_json, lowest_level)
    if options.log_file is None:
        console.log_replaces_lines()
