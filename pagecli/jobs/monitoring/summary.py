"""The metrics of a job: --stats writes them, the closing summary shows them."""

import contextlib
import importlib.metadata
import json
import platform
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pagecli
from pagecli.jobs.run.job_loop import RunResult
from pagecli.jobs.storage.whole_file import WholeFile

SCHEMA_VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "pyarrow", "numpy")


def job_stats(
    engine_stats: Mapping[str, Any],
    result: RunResult,
    started: float,
    model: str,
    of_model: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Everything --stats documents. `started` is the command's own start on time.perf_counter(); `of_model` are the sampling
    parameters that the model's generation_config.json set."""
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
        "versions": versions(),
    }


def write_stats(file: WholeFile, stats: Mapping[str, Any]) -> None:
    """Raises InputError."""
    file.write((json.dumps(stats, indent=2, default=str) + "\n").encode("utf-8"))


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
