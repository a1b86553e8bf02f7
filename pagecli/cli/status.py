"""`pagecli status`: how the job of an output stands."""

import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.terminal.console import Console, exit_code_of, name_value_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pagecli.jobs.monitoring.job_status import JobStatus

EXIT_CODES = {"complete": 0, "running": 10, "stopped": 11, "killed": 12, "none": 13}
EPILOG = (
    "Exit codes: 0 complete; 10 running; 11 stopped before its last row, the same command resumes it; 12 killed, the same "
    "command resumes it; 13 neither output nor job; 2 and 3 unknown."
)
SHOWN_PROCESSES = 16
TIMES = ("checkpoint_at", "started", "updated")


def status(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The output of the job, as given to generate.")],
    as_json: flags.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the exit code.")] = False,
) -> int:
    """Show how a job stands that runs, was stopped or is complete: rows, rate, time left, errors, last checkpoint."""
    console = Console()

    def run() -> int:
        from pagecli.jobs.monitoring.job_status import job_status
        from pagecli.jobs.shards.parts_status import parts_status

        found = parts_status(output) or job_status(output)
        if as_json:
            print(json.dumps(status_json(found), indent=2))
        elif not quiet:
            print("\n".join(name_value_lines(status_lines(found, time.time()), sys.stdout)))
        return EXIT_CODES[found.state]

    return exit_code_of(run, console)


def status_json(found: "JobStatus") -> dict[str, Any]:
    """Every figure; times as UTC. None: not known, or of no meaning in this state."""
    values = {**asdict(found), "state": str(found.state)}
    for name in TIMES:
        if values[name] is not None:
            values[name] = datetime.fromtimestamp(values[name], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return values


def status_lines(found: "JobStatus", now: float) -> list[tuple[str, str]]:
    """(name, value) of each line for people; `now` in seconds since 1970."""
    lines = [("state", _state_text(found, now))]
    if found.num_parts is not None:
        lines.append(
            ("parts", f"{found.num_parts_complete:,} of {found.num_parts:,} complete, {found.num_parts_running:,} running")
        )
    if found.num_rows is not None:
        lines.append(("rows", _rows_text(found)))
    if found.output_tokens_per_second is not None and found.phase == "generating":
        left = "" if found.eta_seconds is None else f", {duration_text(found.eta_seconds)} left"
        speed = f"{found.output_tokens_per_second:,.1f} output tokens/s, {found.rows_per_second:,.2f} rows/s"
        lines.append(("speed", speed + left))
        lines += [process_line(row) for row in found.processes[:SHOWN_PROCESSES]]
        if len(found.processes) > SHOWN_PROCESSES:
            lines.append(("", f"and {len(found.processes) - SHOWN_PROCESSES} more: --json has them"))
    if found.checkpoint_at is not None and found.state != "stopped":  # what was stopped has kept every row
        ago = duration_text(now - found.checkpoint_at)
        lines.append(("checkpoint", f"{found.checkpoint_rows:,} input rows safe, {ago} ago"))
    if found.state == "running" and found.updated is not None:
        lines.append(("heard of", f"{duration_text(now - found.updated)} ago"))
    if found.state in ("stopped", "killed"):
        lines.append(("resume", "run the same command again"))
    return lines


def process_line(row: "Mapping[str, Any]") -> tuple[str, str]:
    """(name, value) of a worker or a rank, by what is known of it."""
    name = f"worker {row['worker']}" if "worker" in row else f"rank {row.get('rank', '?')}"
    texts = {
        "num_rows": "{:,} rows",
        "tokens_per_second": "{:,.1f} tokens/s",
        "kv_usage": "KV cache {:.0%} used",
        "waited_seconds": "{:.1f} s waited for others",
        "num_restarts": "{:,} restarts",
        "cpu_isa": "{}",
        "host": "on {}",
    }
    return name, ", ".join(text.format(row[key]) for key, text in texts.items() if key in row)


def _state_text(found: "JobStatus", now: float) -> str:
    if found.pid is None or found.state in ("complete", "none"):
        return str(found.state)
    phase = f", {found.phase}" if found.phase else ""
    text = f"{found.state}{phase} (process {found.pid} on {found.host}"
    if found.state == "running" and found.started is not None:
        text += f", for {duration_text(now - found.started)}"
    elif found.updated is not None:
        text += f", {duration_text(now - found.updated)} ago"
        text += f", exit code {found.exit_code}" if found.exit_code is not None else ""
    return text + ")"


def _rows_text(found: "JobStatus") -> str:
    text = f"{found.num_rows:,}"
    if found.num_rows_total and found.state != "complete":
        guess = "" if found.total_is_exact else "about "
        text += f" of {guess}{found.num_rows_total:,} ({min(1.0, (found.num_rows or 0) / found.num_rows_total):.1%})"
    if found.num_taken_over:
        text += f", {found.num_taken_over:,} of them from earlier runs"
    return text + (f", {found.num_error_rows:,} error rows" if found.num_error_rows else "")


def duration_text(seconds: float) -> str:
    """4 s, 3 min 20 s, 5 h 12 min, 3 days 4 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"
