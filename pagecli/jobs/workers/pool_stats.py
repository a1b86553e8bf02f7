"""The statistics of several engines as those of one, by the names that the --stats file documents."""

from collections.abc import Mapping, Sequence
from typing import Any

_SUMS = (
    *("num_requests", "prompt_tokens", "output_tokens", "num_sampled_tokens", "num_steps", "step_seconds"),
    *("num_computed_tokens", "num_recomputed_tokens", "num_preemptions", "preemption_seconds", "num_swapped_blocks"),
    *("num_copy_on_write", "num_failed_steps"),
)
_SIZES = ("kv_blocks_peak", "kv_blocks_total", "weight_bytes", "num_threads")  # of workers that are there at a time
_MEANS = {"kv_slot_utilization": "num_steps", "kv_sharing_saving": "num_steps", "prefix_cache_hit_rate": "prompt_tokens"}
_OF_A_WORKER = (
    *("host", "pid", "cpus", "cpu_isa", "num_threads", "num_requests", "output_tokens", "num_sampled_tokens"),
    *("step_seconds", "kv_blocks_peak", "kv_blocks_total", "kv_usage", "num_preemptions", "load_seconds"),
)


def merged_stats(engines: Sequence[Mapping[str, Any]], gone: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Counts are sums, those of engines that are `gone` included; sizes are sums of those there; shares are means, weighted by
    what they are shares of; all else is the first one's. Precondition: at least one engine in all.
    """
    all_engines = [*engines, *gone]
    merged = dict(all_engines[0])
    for name in _SUMS:
        merged[name] = sum(stats[name] for stats in all_engines)
    for name in _SIZES:
        merged[name] = sum(stats[name] for stats in engines or all_engines[:1])
    for name, weight in _MEANS.items():
        shares = [(stats[name], stats[weight]) for stats in all_engines if stats[name] is not None and stats[weight]]
        total = sum(weight for _, weight in shares)
        merged[name] = sum(share * weight for share, weight in shares) / total if total else merged[name]
    merged["load_seconds"] = max(stats["load_seconds"] for stats in all_engines)
    merged["preempted_requests"] = {name: value for stats in all_engines for name, value in stats["preempted_requests"].items()}
    return merged


def worker_row(number: int, stats: Mapping[str, Any], num_rows: int, num_restarts: int) -> dict[str, Any]:
    """One worker, as --stats and the profile list it."""
    seconds = stats["step_seconds"]
    return {
        "worker": number,
        **{name: stats[name] for name in _OF_A_WORKER},
        **({"ranks": stats["ranks"]} if "ranks" in stats else {}),
        "num_rows": num_rows,
        "num_restarts": num_restarts,
        "tokens_per_second": stats["num_sampled_tokens"] / seconds if seconds else 0.0,
    }
