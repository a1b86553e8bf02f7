"""The work behind `pagecli generate`: check everything cheap, load the model, run the job, report."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pagecli.cli.console import Console
from pagecli.cli.progress import ProgressDisplay, progress_display
from pagecli.cli.quiet_libraries import quieten
from pagecli.cli.report import print_summary
from pagecli.cli.standard_output import reserved_stdout
from pagecli.cli.watch_options import WatchOptions
from pagecli.cli.watching import watched
from pagecli.engine.config import EngineConfig
from pagecli.engine.sampling_params import SamplingParams
from pagecli.errors import ExitCode, InputError, ModelError, PagecliError
from pagecli.jobs.atomic_file import check_output
from pagecli.jobs.input_row import InputSource
from pagecli.jobs.job_watch import JobEnd, JobFacts, JobWatch
from pagecli.jobs.output_row import ResultColumns
from pagecli.jobs.reader import open_input
from pagecli.jobs.records import PromptOptions, RowPreparer
from pagecli.jobs.redaction import redact_values
from pagecli.jobs.runner import JobRun, Progress, RunResult, Window
from pagecli.jobs.stop_signals import StopSignals, stop_signals
from pagecli.jobs.summary import job_stats, write_stats
from pagecli.jobs.writer import RowWriter, check_writable, open_output

if TYPE_CHECKING:
    from pagecli.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class GenerateJob:
    """Everything that was asked for, resolved and checked as far as it can be without the model."""

    input: str
    output: str
    engine: EngineConfig
    params: SamplingParams
    prompts: PromptOptions
    columns: ResultColumns
    order: Literal["input", "completion"] = "input"
    limit: int | None = None
    overwrite: bool = False
    stats: Path | None = None
    watch: WatchOptions = field(default_factory=WatchOptions)


def run_generate(job: GenerateJob, console: Console) -> int:
    """Runs the job; returns the exit code. Raises PagecliError, StopRequested."""
    started = time.perf_counter()
    quieten(console.verbose, console.is_terminal and not console.quiet, has_log=console.log is not None)
    facts = JobFacts(job.input, job.output, job.engine.model)
    with stop_signals() as signals, watched(job.watch, facts, console) as watch, reserved_stdout() as rows_fd:
        check_writable(job.output, job.overwrite)
        if job.stats is not None:
            check_output(job.stats, overwrite=True)
        source = open_input(job.input, job.limit)
        try:
            _check_columns(source, job.prompts)
            writer = open_output(job.output, job.overwrite, job.columns, source.schema, console.warning, rows_fd)
            try:
                return _run(job, source, writer, console, signals, watch, started)
            finally:
                writer.discard()
        finally:
            source.close()


def _run(
    job: GenerateJob,
    source: InputSource,
    writer: RowWriter,
    console: Console,
    signals: StopSignals,
    watch: JobWatch,
    started: float,
) -> int:
    with progress_display(console) as display:
        engine = _load(job, console, display)
        watch.loaded(engine.stats())

        def on_progress(progress: Progress) -> None:
            display.update(progress)
            watch.update(progress)

        preparer = RowPreparer(engine.tokenizer, engine.model_config.vocab_size, job.prompts, job.params)
        window = Window.for_engine(job.engine.max_num_seqs)
        run = JobRun(engine, preparer.prepare, writer, window, job.order, on_progress, lambda: signals.received)
        try:
            code = _run_to_the_end(run, source, writer, signals, console)
        finally:
            stats = job_stats(engine.stats(), run.result, started, job.engine.model)
            if job.stats is not None:
                write_stats(job.stats, redact_values(stats))
    watch.ended(JobEnd(code, stats=stats))
    if code != ExitCode.SIGPIPE:
        print_summary(console, stats, job.output)
        _say_errors(run.result, console)
    return code


def _load(job: GenerateJob, console: Console, display: ProgressDisplay) -> "Engine":
    display.loading(job.engine.model)
    console.detail(f"loading {job.engine}")
    from pagecli.engine.engine import Engine

    if console.log is not None:
        console.log.capture_libraries()
    engine = Engine(job.engine)
    if not engine.tokenizer.has_chat_template and (job.prompts.chat or job.prompts.system is not None):
        flag = "--chat" if job.prompts.chat else "--system"
        raise ModelError(f"{job.engine.model} has no chat template, which {flag} needs", f"leave out {flag}")
    console.detail(f"loaded: {engine.stats()}")
    return engine


def _run_to_the_end(run: JobRun, source: InputSource, writer: RowWriter, signals: StopSignals, console: Console) -> int:
    """Runs all rows and completes the output; whatever ends the job early, finished rows are kept."""
    try:
        with signals.deferred():
            result = run.run(source)
            if result.stopped_by is None:
                writer.finish()
                return ExitCode.ROWS if result.num_error_rows else ExitCode.OK
        _keep_finished(run, writer, console)
        return 128 + result.stopped_by
    except BrokenPipeError:
        return ExitCode.SIGPIPE
    except BaseException:
        _guarded(lambda: _keep_finished(run, writer, console), console)
        raise


def _keep_finished(run: JobRun, writer: RowWriter, console: Console) -> None:
    _guarded(run.keep_finished, console)
    path = writer.keep_partial()
    if path is not None:
        console.error(f"the job did not end; its {run.result.num_rows} finished rows are in {path}")


def _guarded(action: Callable[[], Any], console: Console) -> None:
    """Saving after a failure may fail in its turn (the disk is still full); the first failure is the one to report."""
    try:
        action()
    except (PagecliError, OSError) as error:
        console.detail(f"while saving finished rows: {error}")


def _check_columns(source: InputSource, prompts: PromptOptions) -> None:
    """A Parquet input without any prompt column is refused before the model loads."""
    names = (prompts.prompt_column, "messages", "prompt_token_ids")
    if source.schema is not None and not any(name in source.schema.names for name in names):
        found = ", ".join(source.schema.names[:12])
        raise InputError(
            f"{source.name} has no column {', '.join(dict.fromkeys(names))}; it has {found}",
            "name the column of the prompts with --prompt-column",
        )


def _say_errors(result: RunResult, console: Console) -> None:
    if result.num_error_rows and result.stopped_by is None:
        console.error(
            f"{result.num_error_rows} of {result.num_rows} rows are error rows; the first, {result.first_error}",
            "their column error says why",
        )
