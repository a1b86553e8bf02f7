"""The result of a run: its counts of rows, the policy that ends it for too many errors, and the statistics made of both.

`--stats` writes the statistics, the closing summary shows some of them.
"""

import contextlib
import importlib.metadata
import json
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pagecli
from pagecli.jobs.rows.row import OutputRow
from pagecli.jobs.storage.atomic_file import WholeFile

LEAST_ROWS = 100  # before so many rows are there, their share of errors is taken of this number


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """`max_error_rate` in [0, 1]; None: any number of error rows is borne."""

    on_error: Literal["row", "stop"] = "row"
    max_error_rate: float | None = None

    def reason_to_stop(self, num_rows: int, num_error_rows: int) -> str | None:
        """Why a job with these numbers of output rows and error rows is to end now; None: it continues.

        A rate of 0.05 ends it at the 6th error among the first 100 rows, then when more than 5 % of the rows are errors.
        """
        if num_error_rows and self.on_error == "stop":
            return "a row failed, and --on-error is stop"
        if self.max_error_rate is None or num_error_rows <= self.max_error_rate * max(num_rows, LEAST_ROWS):
            return None
        return f"{num_error_rows:,} of {num_rows:,} rows failed, more than --max-error-rate {self.max_error_rate:g} allows"


@dataclass
class RunResult:
    """The result of a run. `stopped_by` is the signal that ended it early, `too_many_errors` why the error policy did.

    Rows count when they finish, whether it is their turn to be written or not.
    """

    num_rows: int = 0  # of the output
    num_input_rows: int = 0
    num_error_rows: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    first_row_at: float | None = None  # time.perf_counter() when the first row finished
    generate_seconds: float = 0.0
    first_error: str | None = None  # of the error row that comes first in the input
    first_error_index: int | None = None
    stopped_by: int | None = None
    too_many_errors: str | None = None
    num_taken_over: int = 0  # of num_rows, out of the journal of an earlier run
    num_failed_steps: int = 0  # of the engine, each followed by a search for the row that caused it

    def count(self, rows: list[OutputRow]) -> None:
        """Add the output rows of one input row that has finished."""
        self.num_input_rows += 1
        self.num_rows += len(rows)
        if self.first_row_at is None:
            self.first_row_at = time.perf_counter()
        for row in rows:
            self.finish_reasons[row.finish_reason] += 1
            if row.error is None:
                continue
            self.num_error_rows += 1
            if self.first_error_index is None or row.row.index < self.first_error_index:
                has_location = row.error.startswith(row.row.location)
                self.first_error = row.error if has_location else f"{row.row.location}: {row.error}"
                self.first_error_index = row.row.index

    @property
    def ended_early(self) -> bool:
        return self.stopped_by is not None or self.too_many_errors is not None


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
