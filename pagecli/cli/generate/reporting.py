"""A job for its user: the listeners that the flags ask for, and the closing summary on stderr.

Listeners get the start of the job and, in every case, its end.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pagecli.cli.generate.options import MonitoringOptions
from pagecli.cli.terminal.console import Console, name_value_lines
from pagecli.cli.terminal.exit_codes import exit_code_for
from pagecli.errors import PagecliError, UsageError
from pagecli.jobs.monitoring.monitor import JobMonitor, JobSnapshot, Listener
from pagecli.jobs.storage.redaction import redact
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
    if not stats["output_tokens"] and stats["generate_seconds"]:  # nothing was generated: texts were embedded
        speed = f"{stats['prompt_tokens'] / stats['generate_seconds']:,.1f} input tokens/s"
    sampling = ", ".join(f"{name} {value:g}" for name, value in stats.get("sampling_of_model", {}).items())
    drafts, accepted = stats.get("num_draft_tokens", 0), stats.get("num_accepted_tokens", 0)
    sharing = f"{stats['kv_sharing_saving'] or 0:.1%} of blocks saved, {stats['num_copy_on_write']:,} copies on write"
    shared = ("sharing", f"{sharing}, {stats['prefix_cache_hit_rate']:.1%} of prompt tokens found in the cache")
    return [
        ("output", output),
        ("rows", f"{stats['num_rows']:,}" + (f" ({reasons})" if reasons else "")),
        *([("taken over", f"{taken_over:,} rows of an earlier run")] if taken_over else []),
        *([("sampling", f"{sampling} (the model's generation_config.json)")] if sampling else []),
        ("error rows", f"{stats['num_error_rows']:,}"),
        ("tokens", f"{stats['prompt_tokens']:,} in, {stats['output_tokens']:,} out"),
        ("speed", f"{speed} over {stats['generate_seconds']:.1f} s"),
        ("first row", "none" if first_row is None else f"after {first_row:.1f} s, {stats['load_seconds']:.1f} s of it loading"),
        ("KV cache", f"{slots}, {blocks}, {stats['num_preemptions']:,} preemptions"),
        *([shared] if verbose else []),
        *([("guessed", f"{accepted:,} of {drafts:,} tokens right")] if drafts and verbose else []),
        ("memory", f"{stats['peak_rss_bytes'] / 2**20:,.0f} MiB at most"),
    ]
