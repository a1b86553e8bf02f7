"""The watchers of a job that the flags ask for, told of its start and its end however that comes about."""

from collections.abc import Iterator
from contextlib import contextmanager

from pagecli.cli.flags.monitoring_options import WatchOptions
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.exit_codes import exit_code_for
from pagecli.errors import PagecliError, UsageError
from pagecli.jobs.monitoring.events import JobEnd, JobFacts, JobWatch, Watcher
from pagecli.jobs.writers.open_output import is_stdout


@contextmanager
def watched(options: WatchOptions, facts: JobFacts, console: Console) -> Iterator[JobWatch]:
    """The job's watch; must be entered before standard output is put aside. Raises UsageError, InputError.

    However the job ends, its watchers hear of it.
    """
    watch = JobWatch(_watchers(options, facts, console), console.warning)
    try:
        watch.started(facts)
        yield watch
    except BaseException as error:
        message = error.message if isinstance(error, PagecliError) else f"{type(error).__name__}: {error}"
        watch.ended(JobEnd(exit_code_for(error), message))
        raise
    finally:
        watch.close()


def _watchers(options: WatchOptions, facts: JobFacts, console: Console) -> list[Watcher]:
    watchers: list[Watcher] = []
    if console.log is not None:
        from pagecli.jobs.monitoring.run_log import LogWatcher

        watchers.append(LogWatcher(console.log))
    if options.metrics_file is not None:
        from pagecli.jobs.monitoring.prometheus import MetricsFile

        watchers.append(MetricsFile(options.metrics_file))
    if options.progress_json is not None:
        from pagecli.jobs.monitoring.progress_json import ProgressEvents

        if options.progress_json == "1" and is_stdout(facts.output):
            raise UsageError("--progress-json 1: standard output is for the rows", "use another descriptor, or a file")
        watchers.append(ProgressEvents(options.progress_json))
    return watchers
