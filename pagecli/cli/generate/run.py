"""The work behind `pagecli generate`: check everything cheap, load the model, run the job, report."""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pagecli.cli.generate.job import (
    GenerateJob,
    IdentifiedJob,
    check_chat,
    check_constraint_of_model,
    identify,
    open_rows,
    output_options,
    prompt_length,
)
from pagecli.cli.generate.reporting import job_stats, monitored, print_summary, progress_display, write_stats
from pagecli.cli.generate.resuming import (
    ResumedRows,
    guarded,
    how_to_retry,
    keep_finished,
    save_at_deadline,
    say_earlier_rows,
    say_stopped_loading,
    shown_stream,
    with_earlier_output,
    write_partial,
)
from pagecli.cli.terminal.console import Console, quieten, reserved_stdout
from pagecli.engine import loaded_model
from pagecli.errors import ExitCode, InputError
from pagecli.jobs.journal.journal import Journal
from pagecli.jobs.journal.locked_output import LockedOutput, Outcome, locked_output
from pagecli.jobs.monitoring.monitor import Heartbeat, JobMonitor, JobSnapshot
from pagecli.jobs.rows.row import InputSource, output_rows
from pagecli.jobs.rows.row_preparer import RowPreparer
from pagecli.jobs.run.job_loop import JobRun, LoopLimits, RunResult
from pagecli.jobs.run.stop_signals import StopSignals, stop_signals
from pagecli.jobs.storage.atomic_file import WholeFile
from pagecli.jobs.storage.redaction import redact_values
from pagecli.jobs.writers.open_output import RowWriter, open_output
from pagecli.model.readers.generation_config import GenerationDefaults

if TYPE_CHECKING:
    from pagecli.engine.engine import Engine
    from pagecli.engine.loaded_model import ResolvedModel
    from pagecli.jobs.readers.output_reader import GoodRows
    from pagecli.jobs.workers.pool import EnginePool
    from pagecli.model.tokenizer.tokenizer import Tokenizer


NUM_DESCRIPTORS = 16  # input, output, journal, lock, signals, weights, and one for each module while it is imported


@dataclass(slots=True)
class OnePart:
    """What a part's run shares with those of the other parts: the engine, and how its end is told."""

    load: Callable[[], "Engine | EnginePool"]
    report: Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class _Run:
    """One run of a job: its input, output, console, signals, monitor and statistics file."""

    job: GenerateJob
    source: InputSource
    locked: LockedOutput | None  # None: a stream
    console: Console
    signals: StopSignals
    monitor: JobMonitor
    stats_file: WholeFile | None
    started: float
    part: OnePart | None = None  # of a job in automatic parts
    earlier: "GoodRows | None" = None  # of a finished output whose error rows are run again
    tokenizer: "Tokenizer | None" = None  # once the model is loaded
    found: "ResolvedModel | None" = None  # the model, before it is loaded
    is_loading: bool = True  # until rows may be computed

    def token_bytes(self, token_id: int) -> bytes | None:
        """The text of a token in UTF-8; None before the model is loaded, or if it is not known."""
        return None if self.tokenizer is None else self.tokenizer.token_bytes(token_id)

    def stop_signal(self) -> int | None:
        """The number of the signal that asks the run to end; None so far."""
        return self.signals.received


def _check_descriptors() -> None:
    """Raises InputError if this process may not open as many files as a job needs."""
    opened: list[int] = []
    try:
        for _ in range(NUM_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise InputError(f"too few files may be open at a time: the limit is {limit}", "raise it: ulimit -n 1024") from error
    finally:
        for fd in opened:
            os.close(fd)


def run_generate(job: GenerateJob, console: Console, part: OnePart | None = None) -> int:
    """Runs the job, or one part of it; returns the exit code. Raises PagecliError, StopRequested."""
    started = time.perf_counter()
    quieten(console.verbose, console.is_terminal and not console.quiet, has_log=console.log is not None)
    _check_descriptors()
    if job.dry_run:
        from pagecli.cli.generate.dry_run import run_dry

        return run_dry(job, console)
    begun = JobSnapshot(job.input, job.output, job.engine.model)
    with (
        stop_signals() as signals,
        monitored(job.monitoring, begun, console) as monitor,
        contextlib.nullcontext() if job.stats is None else WholeFile(job.stats) as stats_file,
        reserved_stdout() as rows_fd,
        locked_output(job.output, job.overwrite or job.retry_errors is not None, signals) as locked,
    ):
        if locked is not None and locked.outcome is not None:
            monitor.end(locked.outcome.exit_code)
            return _already_complete(locked, locked.outcome, console)
        if job.profile is not None:
            from pagecli.cli.generate.recorded_job import check_profile_directory

            check_profile_directory(job.profile)
        with contextlib.ExitStack() as stack:
            earlier = None
            if job.retry_errors is not None:
                job, earlier = with_earlier_output(job, stack)
                if earlier is None:
                    console.note(f"{job.output} has no error rows; nothing was left to do")
                    monitor.end(ExitCode.OK)
                    return ExitCode.OK
            source = stack.enter_context(contextlib.closing(open_rows(job, console.warning)))
            run = _Run(job, source, locked, console, signals, monitor, stats_file, started, part, earlier)
            try:
                return _run_locked(run, rows_fd)
            except BaseException as error:
                if run.is_loading:
                    say_stopped_loading(error, locked, console, job.input, signals)
                raise


def _run_locked(run: _Run, rows_fd: int) -> int:
    console = run.console
    job = run.job
    found = run.found = loaded_model.resolve(job.engine)
    if job.open_to_model and found.source.generation != GenerationDefaults():
        from pagecli.cli.generate.model_defaults import with_model_defaults

        job = run.job = with_model_defaults(job, found.source, console)
    identified = None
    if job.selection.shard is not None or (run.locked is not None and job.journal.enabled):
        identified = identify(job, found)
    journal = None
    if run.locked is not None:
        if identified is not None and job.journal.enabled:
            weights, with_ids = identified.weights, job.columns.token_ids
            journal = run.locked.open_journal(identified.identity, weights, job.journal.restart, with_ids)
        if not run.locked.is_new:
            say_earlier_rows(run.locked, journal, job.output, job.journal, console)
        run.monitor.add(Heartbeat(run.locked.output))
        run.signals.on_first = run.monitor.stopping
    run.monitor.begin()
    if journal is not None or run.locked is None:
        run.signals.on_deadline = partial(save_at_deadline, run.locked, job.input)
    template_time = _template_time(run)
    job_key = "" if identified is None or job.selection.shard is None else identified.key(template_time)
    schema, options = run.source.schema, output_options(job, run.source, job_key, run.token_bytes)
    replaces = job.overwrite or run.earlier is not None
    writer = open_output(job.output, replaces, job.columns, schema, console.warning, rows_fd, options)
    try:
        if job.journal.partial:
            run.is_loading = False
            return write_partial(run.source, writer, journal, console, job.output)
        return _run(run, writer, journal, identified, template_time)
    finally:
        writer.discard()


def _already_complete(locked: LockedOutput, outcome: Outcome, console: Console) -> int:
    """Remove the journal of an earlier run that was killed after its output was complete."""
    locked.complete()
    console.note(f"{locked.output} is complete, {outcome.num_rows:,} rows of an earlier run; nothing was left to do")
    return outcome.exit_code


def _template_time(run: _Run) -> datetime:
    """The time that chat templates see; a resumed job keeps that of its first run."""
    begun = None if run.locked is None else run.locked.template_time
    return datetime.fromisoformat(begun) if begun is not None else run.job.prompts.template_time or datetime.now()


def _run(
    run: _Run, writer: RowWriter, journal: Journal | None, identified: IdentifiedJob | None, template_time: datetime
) -> int:
    job, console = run.job, run.console
    with progress_display(console) as display, contextlib.ExitStack() as ends:
        run.monitor.add(display)
        engine = (
            ends.enter_context(contextlib.closing(load_engine(job, console, display.on_loading, run.found)))
            if run.part is None
            else run.part.load()
        )
        if identified is not None:
            identified.check_loaded()
        run.monitor.loaded(engine.stats())
        run.tokenizer = engine.tokenizer
        engine.tokenizer.template_time = template_time
        resumed, rows_run = job_run(job, engine, writer, journal, run.monitor, run.stop_signal, run.earlier)

        def stats_so_far() -> dict[str, Any]:
            of_model = {name: getattr(job.params, name) for name in job.of_model}
            return job_stats(engine.stats(), rows_run.result, run.started, job.engine.model, of_model)

        with contextlib.ExitStack() as records:
            if run.stats_file is not None:
                records.enter_context(_stats_written(run.stats_file, stats_so_far, console))
            if job.profile is not None:
                records.enter_context(_recorded(job, job.profile, engine, console))
            code, shown = _run_to_the_end(run, rows_run, writer, resumed)
        stats = stats_so_far()
    run.monitor.end(code, stats=stats)
    if run.part is not None:
        run.part.report(stats)
    elif code != ExitCode.SIGPIPE:
        print_summary(console, stats, shown)
        if rows_run.result.num_error_rows:
            _say_errors(rows_run.result, job, console)
    return code


def job_run(
    job: GenerateJob,
    engine: "Engine | EnginePool",
    writer: RowWriter,
    journal: Journal | None = None,
    monitor: JobMonitor | None = None,
    stop_signal: Callable[[], int | None] = lambda: None,
    earlier: "GoodRows | None" = None,
) -> tuple[ResumedRows | None, JobRun]:
    """The pass over the job's rows, and what prepares them: for the command line and for the library. Raises UsageError."""
    tokenizer = engine.tokenizer
    length = prompt_length(job, tokenizer, engine.max_model_len)
    preparer = RowPreparer(tokenizer, engine.model_config.vocab_size, job.prompts, job.params, length, job.of_model)
    prepare_row, rows_of = preparer.prepare, output_rows
    if "tools" in (tokenizer.tool_template or ""):
        from pagecli.jobs.tools.answers import ToolAnswers

        rows_of = ToolAnswers(tokenizer, job.prompts).rows_of
    if job.score is not None:
        from pagecli.jobs.rows.row_parameters import OF_MODEL
        from pagecli.jobs.rows.score_rows import ScorePreparer, score_rows

        preparer.of_row = OF_MODEL
        prepare_row = ScorePreparer(tokenizer, preparer, job.prompts, job.params).prepare
        rows_of = partial(score_rows, options=job.score)
    if job.embed is not None:
        from pagecli.jobs.rows.embedding_rows import embedding_rows
        from pagecli.jobs.rows.row_parameters import OF_MODEL

        preparer.of_row = OF_MODEL
        rows_of = embedding_rows
    resumed = None
    if earlier is not None or (journal is not None and journal.num_rows):
        resumed = ResumedRows(prepare_row, journal, job.params, earlier)
    limits = LoopLimits.for_engine(job.engine.max_num_seqs * engine.num_replicas)
    computes: Any = engine  # of the protocol job_loop.Engine
    if job.retries is not None:
        from pagecli.jobs.run.retries import RetryingEngine

        computes = RetryingEngine(engine, job.retries)
    prepare = resumed or prepare_row
    run = JobRun(computes, prepare, writer, limits, job.order, monitor, stop_signal, journal, job.errors, rows_of)
    if job.pool is not None:
        pool = cast("EnginePool", engine)

        def grow(num_engines: int) -> None:
            run.limits = LoopLimits.for_engine(job.engine.max_num_seqs * num_engines)

        pool.on_growth = grow
    return resumed, run


@contextlib.contextmanager
def _stats_written(file: WholeFile, stats: Callable[[], dict[str, Any]], console: Console) -> Iterator[None]:
    """Writes the file of --stats at the end of the block; after an exception as far as it can."""

    def write() -> None:
        write_stats(file, redact_values(stats()))

    try:
        yield
    except BaseException:
        guarded(write, console)
        raise
    write()


def _recorded(
    job: GenerateJob, profile: Path, engine: "Engine | EnginePool", console: Console
) -> contextlib.AbstractContextManager[None]:
    if job.pool is not None:
        from pagecli.cli.generate.recorded_pool import recorded_pool

        return recorded_pool(profile, cast("EnginePool", engine), f"{job.input} on {job.engine.model}", console)
    from pagecli.cli.generate.recorded_job import recorded_job

    return recorded_job(profile, cast("Engine", engine), f"{job.input} on {job.engine.model}", console)


def load_engine(
    job: GenerateJob,
    console: Console,
    on_loading: Callable[[int, int], None] | None = None,
    found: "ResolvedModel | None" = None,
) -> "Engine | EnginePool":
    """Raises ModelError, UsageError. `on_loading`, `found`: see Engine."""
    console.detail(lambda: f"loading {job.engine}")
    if job.pool is not None:
        from pagecli.cli.generate.pool import load_pool

        return load_pool(job, console, on_loading or (lambda num_read, num_parameters: None))
    from pagecli.engine.engine import Engine

    if console.log is not None:
        console.log.capture_libraries()
    if job.embed is not None:
        from pagecli.engine.embedding import EmbeddingEngine
        from pagecli.model.pooling import Pooling

        embeds: Any = EmbeddingEngine(job.engine, Pooling(job.embed.pooling, job.embed.normalize), on_loading, found)
        return embeds  # of the same protocol (job_loop.Engine)
    engine = Engine(job.engine, on_loading=on_loading, found=found)
    for note in engine.loaded.model.notes:
        console.warning(note)
    check_chat(job, engine.tokenizer)
    check_constraint_of_model(job.params, engine)
    console.detail(lambda: f"loaded: {engine.stats()}")
    return engine


def _run_to_the_end(run: _Run, job_run: JobRun, writer: RowWriter, resumed: ResumedRows | None) -> tuple[int, str]:
    """Runs all rows and completes the output; whatever ends the job early, finished rows are kept.

    Returns the exit code, and where the rows are, in words.
    """
    console, locked = run.console, run.locked
    try:
        with run.signals.deferred():
            run.is_loading = False
            result = job_run.run(run.source)
            if not result.ended_early:
                if resumed is not None:
                    resumed.check_complete(run.job.selection.parse())
                code = ExitCode.ROWS if result.num_error_rows else ExitCode.OK
                if locked is not None:
                    locked.note_outcome(Outcome(code, result.num_rows, result.num_error_rows))
                writer.finish()
                if locked is not None:
                    locked.complete()
                return code, shown_stream(run.job.output) if locked is None else run.job.output
        shown = keep_finished(job_run, writer, locked, console, run.job)
        return ExitCode.ROWS if result.stopped_by is None else 128 + result.stopped_by, shown
    except BrokenPipeError:
        return ExitCode.SIGPIPE, shown_stream(run.job.output)
    except BaseException:
        guarded(lambda: keep_finished(job_run, writer, locked, console, run.job), console)
        raise


def _say_errors(result: RunResult, job: GenerateJob, console: Console) -> None:
    if not result.ended_early:
        again = how_to_retry(job)
        console.error(
            f"{result.num_error_rows} of {result.num_rows} rows are error rows; the first, {result.first_error}",
            "their column error says why" + (f"; run them again with: {again}" if again else ""),
        )
