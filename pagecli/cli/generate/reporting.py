"""A job for its user: how far it is, the listeners that the flags ask for, the statistics, and the closing summary on stderr.

How far: a bar on a terminal, a plain line every ten seconds elsewhere, nothing if asked to be quiet. Listeners get the start
of the job and, in every case, its end.
"""

import contextlib
import importlib.metadata
import json
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pagecli
from pagecli.cli.generate.options import MonitoringOptions
from pagecli.cli.terminal.console import Console, name_value_lines, printable
from pagecli.cli.terminal.exit_codes import exit_code_for
from pagecli.errors import PagecliError, UsageError
from pagecli.jobs.monitoring.monitor import Event, JobMonitor, JobSnapshot, Listener
from pagecli.jobs.run.job_loop import RunResult
from pagecli.jobs.storage.atomic_file import WholeFile
from pagecli.jobs.storage.redaction import redact
from pagecli.jobs.writers.open_output import is_stdout

LINE_SECONDS = 10.0


class ProgressDisplay(Listener, Protocol):
    """A listener, and a context manager that is shown while it is open."""

    def __enter__(self) -> "ProgressDisplay": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def on_loading(self, num_read: int, num_parameters: int) -> None: ...


def progress_display(console: Console) -> ProgressDisplay:
    if console.quiet:
        return SilentProgress()
    return BarProgress(console) if console.is_terminal else LineProgress(console)


def rows_text(job: JobSnapshot) -> str:
    """`17/120 rows`, or `17/~120 rows` where the total is a guess, or `17 rows, reading` where the input may have more."""
    if job.num_rows_total is None:
        return f"{job.num_rows} rows, reading"
    return f"{job.num_rows}/{'' if job.total_is_exact else '~'}{job.num_rows_total} rows"


def clock_text(seconds: float | None) -> str:
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def fitting_metrics(job: JobSnapshot, room: int) -> str:
    """As many metrics as have room, whole; the least important are left out first, the order is always the same.

    The time left is never left out, only unknown.
    """
    metrics = {
        3: f"{job.output_tokens_per_second:.0f} tok/s",
        4: f"{job.num_running} running",
        6: f"{job.num_waiting} waiting",
        5: f"KV {job.kv_usage:.0%}",
        1: f"{clock_text(job.eta_seconds)} left",
        2: f"{job.num_error_rows} errors" if job.num_error_rows else "",
    }
    for least in range(6, 0, -1):
        text = "  ".join(metric for rank, metric in metrics.items() if rank <= least and metric)
        if len(text) <= room:
            break
    return text


class SilentProgress:
    name = "the progress display"
    interval = 0.0

    def __enter__(self) -> "SilentProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def on_event(self, event: Event, job: JobSnapshot) -> None: ...
    def on_loading(self, num_read: int, num_parameters: int) -> None: ...
    def close(self) -> None: ...


class LineProgress(SilentProgress):
    """For logs: no escape sequences, nothing overwritten."""

    def __init__(self, console: Console, every: float = LINE_SECONDS) -> None:
        self._console = console
        self._every = every
        self._has_rows = False
        self._next = time.monotonic() + every

    def on_loading(self, num_read: int, num_parameters: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._console.passing_note(f"loading, {num_read / num_parameters:.0%}")

    def on_event(self, event: Event, job: JobSnapshot) -> None:
        if event != "progress":
            return
        if job.num_rows and not self._has_rows:
            self._has_rows = True
            self._console.detail("the first row has finished")
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        errors = f", {job.num_error_rows} errors" if job.num_error_rows else ""
        self._console.passing_note(
            f"{rows_text(job)}{errors}, {job.output_tokens_per_second:.0f} tok/s, {job.num_running} running, "
            f"{job.num_waiting} waiting, KV {job.kv_usage:.0%}, {clock_text(job.eta_seconds)} left"
        )


class BarProgress(SilentProgress):
    """A Rich bar; lines that are said meanwhile appear above it."""

    def __init__(self, console: Console) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = console
        screen = RichConsole(stderr=True, highlight=False)
        self._bar_width = max(6, min(24, screen.width // 6))
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=self._bar_width),
            TextColumn("{task.fields[metrics]}", markup=False),
            console=screen,
            transient=True,
            redirect_stdout=False,
            refresh_per_second=5,
        )
        self._task = self._bar.add_task("starting", total=None, metrics="")
        self._model = ""

    @property
    def description(self) -> str:
        """What stands in front of the bar."""
        return self._bar.tasks[0].description

    def __enter__(self) -> "BarProgress":
        self._bar.start()
        self._former_print = self._console.print_line
        self._console.print_line = self._print_above
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._console.print_line = self._former_print
        self._bar.stop()

    def on_event(self, event: Event, job: JobSnapshot) -> None:
        if event == "start":
            self._model = printable(job.model.rstrip("/").rpartition("/")[2])  # of a path or hub id, what tells it from others
            self._bar.update(self._task, description=f"loading {self._model}", refresh=True)
        elif event == "progress":
            total = None if job.num_rows_total is None else max(job.num_rows_total, 1)
            description = rows_text(job)
            room = self._bar.console.width - len("| ") - len(description) - 1 - self._bar_width - 1
            metrics = fitting_metrics(job, room)
            self._bar.update(self._task, description=description, total=total, completed=job.num_rows, metrics=metrics)

    def on_loading(self, num_read: int, num_parameters: int) -> None:
        share = f"loading {self._model} {min(num_read / num_parameters, 1):.0%}"
        self._bar.update(self._task, description=share, completed=num_read, total=num_parameters)

    def _print_above(self, line: str) -> None:
        from rich.text import Text

        self._bar.console.print(Text.from_ansi(line), soft_wrap=True)


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


def print_summary(console: Console, stats: Mapping[str, Any], output: str) -> None:
    """Prints the key metrics, more of them with -v; --stats has them all. `output`: where its rows are, in words."""
    if console.quiet:
        return
    pairs = [(name, redact(value)) for name, value in summary_lines(stats, output, console.verbose)]
    for line in name_value_lines(pairs, sys.stderr if console.is_terminal else None, console.dimmed):
        console.print_line(line)


def summary_lines(stats: Mapping[str, Any], output: str, verbose: bool) -> list[tuple[str, str]]:
    """(name, value) of each line; `verbose`: what sharing and guessing saved, too."""
    reasons = ", ".join(f"{count:,} {name}" for name, count in stats["finish_reasons"].items())
    taken_over = stats.get("num_rows_taken_over", 0)
    first_row, used = stats["time_to_first_row_seconds"], stats["kv_slot_utilization"]
    blocks = f"peak {stats['kv_blocks_peak']:,} of {stats['kv_blocks_total']:,} blocks of {stats['kv_block_size']}"
    slots = "no slot used" if used is None else f"{used:.1%} of slots used"
    speed = f"{stats['output_tokens_per_second']:,.1f} output tokens/s"
    # Texts were embedded or scored.
    if stats["prompt_tokens"] and not stats["num_sampled_tokens"] and stats["generate_seconds"]:
        speed = f"{stats['prompt_tokens'] / stats['generate_seconds']:,.1f} input tokens/s"
    sampling = ", ".join(f"{name} {value:g}" for name, value in stats.get("sampling_of_model", {}).items())
    return [
        ("output", output),
        ("rows", f"{stats['num_rows']:,}" + (f" ({reasons})" if reasons else "")),
        *([("taken over", f"{taken_over:,} row{'' if taken_over == 1 else 's'} of an earlier run")] if taken_over else []),
        *([("sampling", f"{sampling} (the model's generation_config.json)")] if sampling else []),
        ("error rows", f"{stats['num_error_rows']:,}"),
        ("tokens", f"{stats['prompt_tokens']:,} in, {stats['output_tokens']:,} out"),
        ("speed", f"{speed} over {stats['generate_seconds']:.1f} s"),
        ("first row", "none" if first_row is None else f"after {first_row:.1f} s, {stats['load_seconds']:.1f} s of it loading"),
        ("KV cache", f"{slots}, {blocks}, {stats['num_preemptions']:,} preemptions"),
        *(_savings(stats) if verbose else []),
        ("memory", f"{stats['peak_rss_bytes'] / 2**20:,.0f} MiB at most"),
    ]


def _savings(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    sharing = f"{stats['kv_sharing_saving'] or 0:.1%} of blocks saved, {stats['num_copy_on_write']:,} copies on write"
    drafts, accepted = stats.get("num_draft_tokens", 0), stats.get("num_accepted_tokens", 0)
    return [
        ("sharing", f"{sharing}, {stats['prefix_cache_hit_rate']:.1%} of prompt tokens found in the cache"),
        *([("guessed", f"{accepted:,} of {drafts:,} tokens right")] if drafts else []),
    ]


SCHEMA_VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "pyarrow", "numpy")


def job_stats(
    engine_stats: Mapping[str, Any],
    result: RunResult,
    started: float,
    model: str,
    of_model: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Everything --stats documents but the versions, which `write_stats` adds.

    `started` is the command's own start on time.perf_counter(); `of_model` are the sampling parameters that the model's
    generation_config.json set.
    """
    seconds = result.generate_seconds
    # Of a job that ended early, the tokens of rows that did not finish took time too.
    num_tokens = int(engine_stats["num_sampled_tokens" if result.ended_early else "output_tokens"])
    first_row = None if result.first_row_at is None else result.first_row_at - started
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "sampling_of_model": dict(of_model or {}),
        **engine_stats,
        "generate_seconds": seconds,
        "output_tokens_per_second": num_tokens / seconds if seconds > 0 else 0.0,
        "time_to_first_row_seconds": first_row,  # from the start of the command, loading included
        "num_rows": result.num_rows,  # of the output
        "num_input_rows": result.num_input_rows,
        "num_error_rows": result.num_error_rows,
        "num_rows_taken_over": result.num_taken_over,
        "num_failed_steps": result.num_failed_steps,
        "finish_reasons": dict(sorted(result.finish_reasons.items())),
        "interrupted_by_signal": result.stopped_by,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def write_stats(file: WholeFile, stats: Mapping[str, Any]) -> None:
    """What `job_stats` gives, and the versions of what computed it. Raises InputError."""
    file.write((json.dumps({**stats, "versions": versions()}, indent=2, default=str) + "\n").encode("utf-8"))


def peak_rss_bytes() -> int:
    """The most memory this process has held so far.

    Linux's own count, where there is one: that of getrusage begins with the memory of the process that started this one.
    """
    with contextlib.suppress(OSError, IndexError):
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def versions() -> dict[str, str]:
    found = {"pagecli": pagecli.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
