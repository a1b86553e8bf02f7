"""The closing summary of a job, a small table on stderr."""

from collections.abc import Mapping
from typing import Any

from pagecli.cli.console import Console


def print_summary(console: Console, stats: Mapping[str, Any], output: str) -> None:
    """Prints the figures a user looks for first; --stats has them all."""
    if console.quiet:
        return
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim" if console.has_color else "")
    table.add_column(overflow="fold")
    for name, value in summary_lines(stats, output):
        table.add_row(name, value)
    RichConsole(
        stderr=True, highlight=False, markup=False, no_color=not console.has_color, force_terminal=console.is_terminal
    ).print(table)


def summary_lines(stats: Mapping[str, Any], output: str) -> list[tuple[str, str]]:
    """(name, value) of each line."""
    reasons = ", ".join(f"{count} {name}" for name, count in stats["finish_reasons"].items())
    first_row = stats["time_to_first_row_seconds"]
    blocks = f"peak {stats['kv_blocks_peak']:,} of {stats['kv_blocks_total']:,} blocks of {stats['kv_block_size']}"
    return [
        ("rows", f"{stats['num_rows']:,}" + (f" ({reasons})" if reasons else "")),
        ("error rows", f"{stats['num_error_rows']:,}"),
        ("tokens", f"{stats['prompt_tokens']:,} in, {stats['output_tokens']:,} out"),
        ("speed", f"{stats['output_tokens_per_second']:,.1f} output tokens/s over {stats['generate_seconds']:.1f} s"),
        ("first row", "none" if first_row is None else f"after {first_row:.1f} s, {stats['load_seconds']:.1f} s of it loading"),
        ("KV cache", f"{stats['kv_slot_utilization']:.1%} of slots used, {blocks}, {stats['num_preemptions']:,} preemptions"),
        ("memory", f"{stats['peak_rss_bytes'] / 2**20:,.0f} MiB at most"),
        ("output", "standard output" if output == "-" else output),
    ]
