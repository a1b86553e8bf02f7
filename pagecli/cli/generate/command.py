"""`pagecli generate`: from its flags, the job."""

import logging
from typing import TYPE_CHECKING

import typer

from pagecli.cli.flags.distinct_files import check_generate_files
from pagecli.cli.flags.engine_and_sampling import options_command
from pagecli.cli.generate.options import GenerateOptions, MonitoringOptions
from pagecli.cli.settings.resolve import notes, with_origin
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
    console = Console(options.quiet and not options.verbose, options.verbose)

    def run() -> int:
        monitoring = options.monitoring
        files = (options.input, options.output, options.model, options.stats, options.profile, monitoring)
        check_generate_files(*files, options.prompt_files)
        _open_log(monitoring, console)
        for line in notes(context):
            console.warning(line)
        try:
            job = _job(options)
        except UsageError as error:
            raise with_origin(error, context) from error
        if job.selection.num_parts is not None and not job.dry_run:
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


def _job(options: GenerateOptions) -> "GenerateJob":
    """Raises UsageError. Slow imports (pyarrow) come only after the flags have been found good."""
    engine, params = options.engine_config(), options.sampling_params()
    from pagecli.cli.generate.job import Formats, GenerateJob, JournalOptions, prompt_options
    from pagecli.jobs.rows.row import ResultColumns
    from pagecli.jobs.rows.row_selection import RowChoice
    from pagecli.jobs.run.retries import RetryPolicy, parse_reasons
    from pagecli.jobs.run.run_result import ErrorPolicy

    o = options
    return GenerateJob(
        input=o.input,
        output=o.output,
        engine=engine,
        params=params,
        open_to_model=o.open_to_model(),
        prompts=prompt_options(o),
        columns=ResultColumns(o.token_ids, o.best_of is not None or o.beam_width > 1, o.logprobs is not None, o.retry > 0),
        order=o.order,
        selection=RowChoice(o.where, o.sample, o.sample_seed, o.limit, o.shard),
        formats=Formats(o.input_format, o.output_format, o.compression, o.row_group_rows, o.row_limit()),
        dry_run=o.dry_run,
        overwrite=o.overwrite,
        stats=o.stats,
        profile=o.profile,
        monitoring=o.monitoring,
        journal=JournalOptions(o.journal, o.restart, o.partial),
        errors=ErrorPolicy(o.on_error, o.max_error_rate),
        retries=RetryPolicy(o.retry, parse_reasons(o.retry_on), o.retry_temperature),
    )
