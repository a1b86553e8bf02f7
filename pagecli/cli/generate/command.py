"""`pagecli generate`: from its flags, the job. No file that it reads may be one that it writes, and none is written twice."""

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import typer

from pagecli.cli.commands import options_command
from pagecli.cli.generate.options import GenerateOptions, MonitoringOptions
from pagecli.cli.settings import notes, settings_files, with_origin
from pagecli.cli.terminal.console import Console, exit_code_of
from pagecli.core import file_targets
from pagecli.core.file_targets import NamedPath, check_distinct
from pagecli.errors import PagecliError, UsageError

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
        _check_files(options)
        _open_log(options.monitoring, console)
        console.transient("starting")
        for line in notes(context):
            console.warning(line)
        try:
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


def _check_files(options: GenerateOptions) -> None:
    """Raises UsageError, before anything is opened, for a file that is both read and written, or written twice."""
    output = options.output
    written = [NamedPath(flag, str(path)) for flag, path in options.written_files if path is not None]
    journal: Iterator[NamedPath] = iter(())
    if file_targets.is_remote(output):
        _check_remote(options.input, output)
    else:
        written.insert(0, NamedPath("OUTPUT", "/dev/stdout" if output == "-" else file_targets.local(output)))
        journal = _journal_files(output)
    read = [NamedPath(flag, str(path)) for flag, path in options.prompt_files.items() if path is not None]
    check_distinct(written, chain(_inputs(options.input), read, journal, _model_files(options.model), settings_files()))


def _inputs(path: str) -> Iterator[NamedPath]:
    from pagecli.jobs.readers.open_input import input_files

    try:
        files = ["/dev/stdin"] if path == "-" else [path] if file_targets.is_remote(path) else input_files(path)
    except PagecliError:  # said when the input is opened
        return
    yield from (NamedPath("INPUT", file) for file in files or [path])


def _check_remote(input: str, output: str) -> None:
    """Of two URLs only their names can be compared."""
    from pagecli.jobs.storage import remote_files

    if not file_targets.is_remote(input):
        return
    try:
        files = remote_files.matching(input, ("",))
    except PagecliError:
        return
    if file_targets.normalized(output) in map(file_targets.normalized, files):
        raise UsageError(f"OUTPUT {file_targets.shown(output)} is a file that is read: INPUT", "write to another file")


def _model_files(model: str) -> Iterator[NamedPath]:
    """The files of a model on this machine, by directory, file or name, without downloading any."""
    from pagecli.model.registry import local_files

    yield from (NamedPath("--model", str(path)) for path in local_files(model))


def _journal_files(output: str) -> Iterator[NamedPath]:
    from pagecli.jobs.storage.job_directory import TEMPORARY_SUFFIX, job_directory_path

    if output == "-":
        return
    try:  # a temporary of a run that was killed may be the output itself, which just got its name
        folder = job_directory_path(file_targets.local_output_path(output))
        kept = [path for path in folder.iterdir() if not path.name.endswith(TEMPORARY_SUFFIX)]
        yield from (NamedPath("the job's journal,", str(path)) for path in kept)
    except (OSError, PagecliError):
        return
