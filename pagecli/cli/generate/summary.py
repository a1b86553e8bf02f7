"""The closing summary of a job, a small table on stderr."""

import sys
from collections.abc import Mapping
from typing import Any

from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.name_value_lines import name_value_lines
from pagecli.jobs.storage.redaction import redact


def print_summary(console: Console, stats: Mapping[str, Any], output: str) -> None:
    """Prints the key metrics; --stats has them all. `output`: where its rows are, in words."""
    if console.quiet:
        return
    pairs = [(name, redact(value)) for name, value in summary_lines(stats, output)]
    for line in name_value_lines(pairs, sys.stderr if console.is_terminal else None, console.dimmed):
        console.print_line(line)


def summary_lines(stats: Mapping[str, Any], output: str) -> list[tuple[str, str]]:
    """(name, value) of each line."""
    reasons = ", ".join(f"{count:,} {name}" for name, count in stats["finish_reasons"].items())
    taken_over = stats.get("num_rows_taken_over", 0)
    first_row, used = stats["time_to_first_row_seconds"], stats["kv_slot_utilization"]
    blocks = f"peak {stats['kv_blocks_peak']:,} of {stats['kv_blocks_total']:,} blocks of {stats['kv_block_size']}"
    slots = "no slot used" if used is None else f"{used:.1%} of slots used"
    sampling = ", ".join(f"{name} {value:g}" for name, value in stats.get("sampling_of_model", {}).items())
    sharing = f"{stats['kv_sharing_saving'] or 0:.1%} of blocks saved, {stats['num_copy_on_write']:,} copies on write"
    return [
        ("rows", f"{stats['num_rows']:,}" + (f" ({reasons})" if reasons else "")),
        *([("taken over", f"{taken_over:,} rows of an earlier run")] if taken_over else []),
        *([("sampling", f"{sampling} (the model's generation_config.json)")] if sampling else []),
        ("error rows", f"{stats['num_error_rows']:,}"),
        ("tokens", f"{stats['prompt_tokens']:,} in, {stats['output_tokens']:,} out"),
        ("speed", f"{stats['output_tokens_per_second']:,.1f} output tokens/s over {stats['generate_seconds']:.1f} s"),
        ("first row", "none" if first_row is None else f"after {first_row:.1f} s, {stats['load_seconds']:.1f} s of it loading"),
        ("KV cache", f"{slots}, {blocks}, {stats['num_preemptions']:,} preemptions"),
        ("sharing", f"{sharing}, {stats['prefix_cache_hit_rate']:.1%} of prompt tokens found in the cache"),
        ("memory", f"{stats['peak_rss_bytes'] / 2**20:,.0f} MiB at most"),
        ("output", output),
    ]
