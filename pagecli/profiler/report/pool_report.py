"""The report of a pool: a table of its workers, then what happened on each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pagecli.profiler.recording.records import Recording
from pagecli.profiler.recording.run_totals import num_steps, total
from pagecli.profiler.report.chart_style import bytes_text, style
from pagecli.profiler.report.content import Report, Section, Table, metadata_of, run_section


def pool_report(title: str, rows: Sequence[Mapping[str, Any]], recordings: Mapping[int, Recording]) -> Report:
    """`rows`: of --stats, one a worker (jobs/workers/pool_stats.py); `recordings`: by worker, of one at least."""
    first = next(iter(recordings.values()))
    with style():
        sections = [_workers_section(rows, recordings)]
        for number, recording in sorted(recordings.items()):
            section, name = run_section(recording), f"worker-{number}"
            charts = [replace(chart, name=f"{name}-{chart.name}") for chart in section.charts]
            sections.append(replace(section, name=name, title=f"Worker {number}: what happened in its run", charts=charts))
    shared = {key: value for key, value in first.metadata.items() if key != "ranks"}
    charts = [chart for section in sections for chart in section.charts]
    return Report(title, metadata_of(replace(first, metadata=shared)), sections, None, charts)


def _workers_section(rows: Sequence[Mapping[str, Any]], recordings: Mapping[int, Recording]) -> Section:
    tokens, speed = (sum(row[name] for row in rows) for name in ("output_tokens", "tokens_per_second"))
    metrics = [
        ("workers", f"{len(rows):,}"),
        ("rows", f"{sum(row['num_rows'] for row in rows):,}"),
        ("output tokens", f"{tokens:,}"),
        ("tokens/s while busy", f"{speed:,.1f}"),
        ("restarts", f"{sum(row['num_restarts'] for row in rows):,}"),
    ]
    columns: tuple[str, ...] = (
        "worker",
        "host",
        "instruction set",
        "threads",
        "rows",
        "output tokens",
        "tokens/s while busy",
        "steps",
    )
    columns += ("mean batch", "KV blocks, most used", "weights", "preemptions", "restarts")
    cells = [_cells(row, recordings.get(row["worker"])) for row in rows]
    note = "What a worker that was lost had recorded is gone with it." if any(row["num_restarts"] for row in rows) else ""
    return Section("workers", "Workers of the pool", metrics, [], [Table("Workers", columns, cells)], note)


def _cells(row: Mapping[str, Any], recording: Recording | None) -> tuple[str, ...]:
    steps = num_steps(recording) if recording else 0
    batch = f"{total(recording, 'num_running') / steps:.1f}" if recording and steps else "not recorded"
    return (
        *(str(row["worker"]), str(row["host"]), str(row["cpu_isa"]), f"{row['num_threads']:,}", f"{row['num_rows']:,}"),
        *(f"{row['output_tokens']:,}", f"{row['tokens_per_second']:,.1f}", f"{steps:,}", batch),
        f"{row['kv_blocks_peak']:,} of {row['kv_blocks_total']:,}",
        bytes_text(int(recording.metadata["weight_bytes"])) if recording else "not recorded",  # type: ignore[call-overload]
        *(f"{row['num_preemptions']:,}", f"{row['num_restarts']:,}"),
    )
