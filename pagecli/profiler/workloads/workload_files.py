"""Workloads out of files: lengths as CSV, traces with prefix hashes as JSON Lines. A bad line raises InputError."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pagecli.core.json_text import parsed
from pagecli.errors import InputError, reason_of
from pagecli.profiler.workloads.workloads import MOST_RATE, Workload, WorkloadRequest

# The names that public traces give a column, lower case, anything but letters and digits as one underscore.
PROMPT_NAMES = (
    *("prompt_tokens", "input_tokens", "input_length", "input_len", "prompt_length", "prompt_len", "num_prompt_tokens"),
    *("contexttokens", "context_tokens", "request_tokens", "num_prefill_tokens", "prefill_tokens"),
)
OUTPUT_NAMES = (
    *("output_tokens", "output_length", "output_len", "completion_tokens", "num_output_tokens", "max_tokens"),
    *("generatedtokens", "generated_tokens", "response_tokens", "num_decode_tokens", "decode_tokens"),
)
# and their unit in seconds; "timestamp" is seconds or a date in CSV, milliseconds in traces of block hashes
ARRIVAL_NAMES = {"arrival_s": 1.0, "arrival_seconds": 1.0, "arrived_at": 1.0, "arrival_time": 1.0, "arrival_ms": 0.001}
TIMESTAMP = "timestamp"
HASH_NAMES = ("hash_ids", "prefix_hashes", "block_hashes")
PREFIX_BLOCK_SIZES = [2**power for power in range(12)]  # tried where a trace does not say its own
MOST_SECONDS = 1e12  # of an arrival, from whatever it is counted
MAX_LINE = 16 << 20  # characters
MAX_TOKENS = 10**8  # of one length; above it, it is some other number


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which names of a file hold what, and how long an arrival's unit is."""

    prompt: str
    output: str | None
    arrival: str | None
    arrival_unit: float
    hashes: str | None = None

    @classmethod
    def among(cls, names: list[str], timestamp_unit: float) -> "_Columns | None":
        """None if no name is that of a prompt's length."""
        by_key = {_key(name): name for name in reversed(names)}
        prompt = next((by_key[key] for key in PROMPT_NAMES if key in by_key), None)
        if prompt is None:
            return None
        output = next((by_key[key] for key in OUTPUT_NAMES if key in by_key), None)
        units = ARRIVAL_NAMES | {TIMESTAMP: timestamp_unit}
        arrival = next((key for key in units if key in by_key), None)
        hashes = next((by_key[key] for key in HASH_NAMES if key in by_key), None)
        unit = units[arrival] if arrival is not None else 1.0
        return cls(prompt, output, by_key[arrival] if arrival is not None else None, unit, hashes)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lstrip("\ufeff").lower()).strip("_")


def read_csv(path: Path, limit: int | None = None) -> Workload:
    """A header line, then a request a line; columns as in the names above, others ignored. Raises InputError."""
    with _opened(path) as file:
        reader = csv.DictReader(_lines(file, path), strict=True)
        try:
            columns = _Columns.among(list(reader.fieldnames or []), 1.0)
            if columns is None or columns.output is None:
                found = ", ".join(reader.fieldnames or []) or "nothing"
                raise InputError(
                    f"{path}: no columns prompt_tokens and output_tokens; its first line has {found[:200]}",
                    "the first line names the columns: prompt_tokens,output_tokens and perhaps arrival_s",
                )
            rows = (_checked(row, path, reader.line_num) for row in reader)
            requests = [_request(row, columns, f"{path}: line {reader.line_num}", None) for row in islice(rows, limit)]
        except csv.Error as error:
            raise InputError(f"{path}: line {reader.line_num}: not CSV: {error}") from error
    return _workload(path, requests, 0)


def _checked(row: dict[Any, Any], path: Path, line: int) -> dict[str, Any]:
    """Lines with more or fewer values than the header are cut or shifted; their lengths cannot be trusted."""
    if None in row or None in row.values():
        raise InputError(f"{path}: line {line}: {'more' if None in row else 'fewer'} values than the first line has names")
    return row


def is_trace(path: Path) -> bool:
    """Whether the first line of a JSON Lines file has a prompt's length and no prompt: a trace, not a job's input."""
    with _opened(path) as file:
        first = next((line for line in _lines(file, path) if line.strip()), "")
    try:
        record = parsed(first)
    except ValueError:
        return False
    return (
        isinstance(record, dict)
        and _Columns.among(list(record), 1.0) is not None
        and not {"prompt", "messages", "prompt_token_ids"} & set(record)
    )


def read_trace(path: Path, limit: int | None = None, default_output_tokens: int | None = None) -> Workload:
    """A request a line, as Mooncake (FAST 2025) publishes them: input_length, output_length, timestamp in ms, hash_ids.

    Records without an output length get `default_output_tokens`. Raises InputError.
    """
    requests: list[WorkloadRequest] = []
    with _opened(path) as file:
        for number, line in enumerate(_lines(file, path), start=1):
            if limit is not None and len(requests) >= limit:
                break
            if not line.strip():
                continue
            source = f"{path}: line {number}"
            try:
                record = parsed(line)
            except ValueError as error:
                raise InputError(f"{source}: not JSON: {error}") from error
            columns = _Columns.among(list(record), 0.001) if isinstance(record, dict) else None
            if columns is None:
                raise InputError(f"{source}: no prompt's length", "each line is an object with input_length or prompt_tokens")
            requests.append(_request(record, columns, source, default_output_tokens))
    return _workload(path, requests, _prefix_block_size(path, requests))


def _lines(file: io.TextIOBase, path: Path) -> Iterator[str]:
    try:
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise InputError(f"{path}: a line has more than {MAX_LINE:,} characters", "see that it is a file of lines")
            yield line
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, UnicodeDecodeError):
        return InputError(f"{path}: not UTF-8 text at byte {error.start}")
    return InputError(f"{path} cannot be read: {reason_of(error)}", "the file may be cut short; check it with gzip -t")


def _request(row: Mapping[str, Any], columns: _Columns, source: str, default_output: int | None) -> WorkloadRequest:
    prompt = _tokens(row[columns.prompt], columns.prompt, source)
    if columns.output is not None and row[columns.output] is not None:
        output = _tokens(row[columns.output], columns.output, source)
    elif default_output is not None:
        output = default_output
    else:
        raise InputError(f"{source}: no output length", "name a column output_tokens, or give --max-tokens")
    arrival = None
    if columns.arrival is not None:
        arrival = _seconds(row[columns.arrival], columns.arrival, columns.arrival_unit, source)
    hashes = row.get(columns.hashes) if columns.hashes is not None else ()
    if not isinstance(hashes, list | tuple) or not all(type(item) is int for item in hashes):
        raise InputError(f"{source}: {columns.hashes} is not a list of whole numbers")
    return WorkloadRequest(prompt, output, arrival, tuple(hashes))


def _tokens(value: Any, name: str, source: str) -> int:
    """A length of at least 1. An output of 0 tokens counts as 1: its prompt is computed, which gives the first."""
    try:
        number = int(value) if not isinstance(value, float) or value.is_integer() else None
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, bool):
        raise InputError(f"{source}: {name} is {str(value)[:40]!r}, not a whole number")
    least = 0 if _key(name) in OUTPUT_NAMES else 1
    if not least <= number <= MAX_TOKENS:
        raise InputError(f"{source}: {name} is {number}", f"lengths are from {least} to {MAX_TOKENS:,} tokens")
    return max(1, number)


def _seconds(value: Any, name: str, unit: float, source: str) -> float:
    """Seconds, from a number of units or a date and time."""
    try:
        if abs(seconds := float(value) * unit) <= MOST_SECONDS:
            return seconds
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(value).strip())).timestamp()
    except (ValueError, OverflowError):
        raise InputError(f"{source}: {name} is {str(value)[:40]!r}, neither a number nor a date and time") from None


def _workload(path: Path, requests: list[WorkloadRequest], prefix_block_size: int) -> Workload:
    """The requests in order of arrival, the first at 0 s."""
    if not requests:
        raise InputError(f"{path} has no requests")
    arrivals = [r.arrival_seconds for r in requests if r.arrival_seconds is not None]
    rate = None
    if len(arrivals) == len(requests):
        first, span = min(arrivals), max(arrivals) - min(arrivals)
        requests = [
            WorkloadRequest(r.prompt_tokens, r.output_tokens, (r.arrival_seconds or 0.0) - first, r.prefix_hashes)
            for r in sorted(requests, key=lambda r: r.arrival_seconds or 0.0)
        ]
        rate = min(len(requests) / span, MOST_RATE) if span > 0 else None
    return Workload(path.name, tuple(requests), f"lengths from {path.name}", prefix_block_size, rate)


def _prefix_block_size(path: Path, requests: list[WorkloadRequest]) -> int:
    """Tokens a hash stands for: the power of two by which every prompt's length gives its number of hashes; 0 without any."""
    hashed = [(r.prompt_tokens, len(r.prefix_hashes)) for r in requests if r.prefix_hashes]
    if not hashed:
        return 0
    for size in PREFIX_BLOCK_SIZES:
        if all(num_hashes in (-(-tokens // size), tokens // size) for tokens, num_hashes in hashed):
            return size
    raise InputError(
        f"{path}: prompts have no equal number of tokens for each hash",
        "one hash for every 2**n tokens of a prompt is understood",
    )


def _opened(path: Path) -> io.TextIOBase:
    try:
        if path.suffix == ".gz":
            return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", newline="")
        return open(path, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}", "check the path") from error
