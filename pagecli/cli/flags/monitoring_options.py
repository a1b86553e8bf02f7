"""The flags --progress-json, --metrics-file, --log-file and --log-json, and the log, which is there before the job."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pagecli.cli.terminal.console import Console


@dataclass(frozen=True, slots=True)
class MonitoringOptions:
    """Where a job's state goes; `log_json` without a file makes stderr a log."""

    progress_json: str | None = None
    metrics_file: Path | None = None
    log_file: Path | None = None
    log_json: bool = False


def open_log(options: MonitoringOptions, console: Console) -> None:
    """Gives the console the log that was asked for. Raises InputError."""
    if options.log_file is None and not options.log_json:
        return
    from pagecli.jobs.monitoring.run_log import RunLog

    console.log = RunLog(options.log_file, options.log_json, _lowest_level(options, console))
    if options.log_file is None:
        console.log_replaces_lines()


def _lowest_level(options: MonitoringOptions, console: Console) -> int:
    """A log file has everything; on stderr --quiet means what it always means."""
    if options.log_file is None and console.quiet:
        return logging.ERROR
    return logging.DEBUG if console.verbose else logging.INFO
