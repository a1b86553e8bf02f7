"""The listeners of a job that the flags ask for; they get its start and, in every case, its end."""

from collections.abc import Iterator
from contextlib import contextmanager

from pagecli.cli.generate.options import MonitoringOptions
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.exit_codes import exit_code_for
from pagecli.errors import PagecliError, UsageError
from pagecli.jobs.monitoring.monitor import JobMonitor
from pagecli.jobs.monitoring.snapshot import JobSnapshot, Listener
from pagecli.jobs.writers.open_output import is_stdout


@contextmanager
def monitored(options: MonitoringOptions, job: JobSnapshot, console: Console) -> Iterator[JobMonitor]:
    """The job's monitor; must be entered before standard output is put aside. Raises UsageError, InputError.

    Its listeners get the end event however the job ends.
    """
    monitor = JobMonitor(job, _listeners(options, job.output, console), console.warning)
    try:
        monitor.start()
        yield monitor
    except BaseException as error:
        message = error.message if isinstance(error, PagecliError) else f"{type(error).__name__}: {error}"
        monitor.end(exit_code_for(error), message)
        raise
    finally:
        monitor.close()


def _listeners(options: MonitoringOptions, output: str, console: Console) -> list[Listener]:
    listeners: list[Listener] = []
    if console.log is not None:
        from pagecli.jobs.monitoring.run_log import LogListener

        listeners.append(LogListener(console.log))
    if options.metrics_file is not None:
        from pagecli.jobs.monitoring.prometheus import MetricsFile

        listeners.append(MetricsFile(options.metrics_file))
    if options.progress_json is not None:
        from pagecli.jobs.monitoring.progress_json import ProgressEvents

        if options.progress_json == "1" and is_stdout(output):
            raise UsageError("--progress-json 1: standard output is for the rows", "use another descriptor, or a file")
        listeners.append(ProgressEvents(options.progress_json))
    return listeners
