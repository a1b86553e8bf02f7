"""trace.json: a recording as a timeline that ui.perfetto.dev and chrome://tracing open.

Trace Event Format, JSON object form: steps are slices with their phases nested inside, requests asynchronous slices, counts
and hardware readings counters. Times are microseconds since the recording began, exact to the nanosecond.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pagecli.errors import InputError, reason_of
from pagecli.profiler.recording.records import HardwareSample, Recording, RequestRecord, StepRecord

MAX_TRACE_STEPS = 50_000  # about 70 MB of JSON, as much as the viewers take without effort
PID, ENGINE_TID = 1, 1

Event = dict[str, Any]

_PHASES = ("schedule", "prepare", "forward", "sample", "commit", "detokenize")
_STEP_ARGS = ("prefill_tokens", "decode_tokens", "num_preemptions", "num_finished", "num_copies", "num_swapped_blocks")
_GAUGES = (
    ("power (W)", "power_watts", 1.0),
    ("utilization (%)", "utilization_percent", 1.0),
    ("memory used (MiB)", "memory_used_bytes", 2.0**-20),
    ("process memory (MiB)", "process_memory_bytes", 2.0**-20),
    ("clock (MHz)", "clock_mhz", 1.0),
    ("temperature (C)", "temperature_celsius", 1.0),
)


def write_trace(path: Path, recording: Recording, steps: Iterable[StepRecord] | None = None) -> None:
    """Write the trace; `steps`: all of them, where the recording itself keeps only some. Raises InputError."""
    about = {"title": recording.title, **recording.metadata}
    all_steps = steps is not None or recording.step_stride == 1
    shown = "every step" if all_steps else f"every {recording.step_stride}th step"
    if int(recording.totals.get("num_steps", len(recording.steps))) > MAX_TRACE_STEPS and all_steps:
        shown = f"the first {MAX_TRACE_STEPS:,} steps"
    events = _events(recording, islice(recording.steps if steps is None else steps, MAX_TRACE_STEPS))
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit": "ms",\n')
            file.write(f'"otherData": {json.dumps({**about, "shown": shown}, default=str)},\n"traceEvents": [\n')
            for i, event in enumerate(events):
                file.write((",\n" if i else "") + json.dumps(event, separators=(",", ":")))
            file.write("\n]}\n")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason_of(error)}", "write the trace to another place") from error


def _events(recording: Recording, steps: Iterable[StepRecord]) -> Iterator[Event]:
    yield from _names(recording)
    end = 0
    for step in steps:
        events, end = _step_events(step, end)
        yield from events
    for request in recording.requests:
        yield from _request_events(request)
    for sample in recording.hardware:
        yield from _hardware_events(sample)


def _names(recording: Recording) -> Iterator[Event]:
    """Metadata: what the process and its tracks are called."""
    yield {"ph": "M", "name": "process_name", "pid": PID, "tid": 0, "args": {"name": f"pagecli: {recording.title}"}}
    yield {"ph": "M", "name": "thread_name", "pid": PID, "tid": ENGINE_TID, "args": {"name": "engine steps"}}


def _slice(name: str, category: str, start: int, end: int, **args: Any) -> Event:
    """A complete event between two times in nanoseconds."""
    times = {"ts": start / 1000, "dur": (end - start) / 1000}
    return {"ph": "X", "name": name, "cat": category, **times, "pid": PID, "tid": ENGINE_TID, "args": args}


def _counter(name: str, at: int, **series: float) -> Event:
    return {"ph": "C", "name": name, "ts": at / 1000, "pid": PID, "tid": 0, "args": series}


def _step_events(step: StepRecord, earliest: int) -> tuple[list[Event], int]:
    """The step's slices, none beginning before `earliest`, and its end; in nanoseconds."""
    start = max(earliest, _ns(step.start_seconds))
    at, now, phases = step.start_seconds, start, []
    for phase in _PHASES:
        at += getattr(step, f"{phase}_seconds")
        end = max(now, _ns(at))
        phases.append(_slice(phase, "phase", now, end))
        now = end
    args = {name: getattr(step, name) for name in _STEP_ARGS}
    events = [_slice(f"step {step.step}", "step", start, now, **args), *phases]
    blocks = {"used": step.blocks_used, "cached": step.blocks_cached, "free": step.blocks_free}
    events += [
        _counter("sequences", start, running=step.num_running, waiting=step.num_waiting),
        _counter("tokens in the step", start, prefill=step.prefill_tokens, decode=step.decode_tokens),
        _counter("KV blocks", start, **blocks),
        _counter("KV slots filled", start, filled=step.slots_filled),
        _counter("KV blocks saved by sharing", start, saved=max(0, step.blocks_unshared - step.blocks_used)),
    ]
    return events, now


def _request_events(request: RequestRecord) -> Iterator[Event]:
    """Its life from being queued to its end, and within it the wait for the first token and the decoding."""
    name = f"request {request.request_id}"
    args = {"prompt_tokens": request.prompt_tokens, "output_tokens": request.output_tokens}
    added, finished = _ns(request.added_seconds), _ns(request.finished_seconds)
    first = None if request.first_token_seconds is None else _ns(request.first_token_seconds)
    yield _async("b", name, request, added, args)
    if first is not None:
        for part, start, end in (("to the first token", added, first), ("decode", first, finished)):
            yield _async("b", part, request, start)
            yield _async("e", part, request, end)
    yield _async("e", name, request, finished)


def _async(phase: str, name: str, request: RequestRecord, at: int, args: dict[str, int] | None = None) -> Event:
    event = {"ph": phase, "name": name, "cat": "request", "id": request.request_id, "ts": at / 1000}
    return event | {"pid": PID, "tid": ENGINE_TID, "args": args or {}}


def _hardware_events(sample: HardwareSample) -> Iterator[Event]:
    at = _ns(sample.seconds)
    for name, attribute, factor in _GAUGES:
        value = getattr(sample, attribute)
        if value is not None:
            yield _counter(f"{sample.device} {name}", at, value=round(value * factor, 3))
    if sample.device != "host":
        yield _counter(f"{sample.device} throttled", at, value=len(sample.throttle_reasons))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
