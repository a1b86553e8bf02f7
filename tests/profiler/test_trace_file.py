"""A recording as a timeline: the rules of the Trace Event Format that Perfetto's importer holds a JSON trace to."""

import json
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.errors import InputError
from pagecli.profiler.recording import trace_file
from pagecli.profiler.recording.records import HardwareSample, Recording, RequestRecord, StepRecord
from pagecli.profiler.recording.trace_file import write_trace

METADATA = {
    "process_name": ("name", str),
    "process_labels": ("labels", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}
NANOSECOND = 1e-3  # in microseconds


def check_rules(trace):
    """Raises AssertionError where the trace breaks a rule of the format."""
    assert isinstance(trace["traceEvents"], list)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        check_event(event)
    slices, tracks = defaultdict(list), defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append(event)
        elif event["ph"] in "be":
            tracks[event["cat"], event["id"]].append(event)
    for events in slices.values():
        check_nesting(events)
    for events in tracks.values():
        check_pairs(events)


def check_event(event):
    assert event["ph"] in ("X", "C", "M", "b", "e")
    assert isinstance(event["name"], str)
    assert event["name"]
    assert isinstance(event["pid"], int)
    assert isinstance(event["tid"], int)
    if event["ph"] == "M":
        key, kind = METADATA[event["name"]]
        assert isinstance(event["args"][key], kind)
        return
    assert isinstance(event["ts"], int | float)
    assert event["ts"] >= 0
    if event["ph"] == "X":
        assert event["dur"] >= 0
    if event["ph"] == "C":
        assert event["args"]
        assert all(type(value) in (int, float) for value in event["args"].values()), "counters are numbers"
    if event["ph"] in "be":
        assert "id" in event
        assert event["cat"]


def check_nesting(events):
    """Slices of one thread lie inside each other or apart; they never overlap in part."""
    ends = []
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        while ends and ends[-1] <= event["ts"] + NANOSECOND / 2:
            ends.pop()
        end = event["ts"] + event["dur"]
        assert not ends or end <= ends[-1] + NANOSECOND / 2, f"{event['name']} sticks out of the slice around it"
        ends.append(end)


def check_pairs(events):
    """Asynchronous slices of one id open and close like brackets, and never run backwards."""
    opened, last = [], 0.0
    for event in events:
        assert event["ts"] >= last or event["ph"] == "e"
        if event["ph"] == "b":
            opened.append((event["name"], event["ts"]))
        else:
            name, start = opened.pop()
            assert name == event["name"]
            assert event["ts"] >= start
    assert not opened


seconds = st.floats(0, 0.5, allow_nan=False)
counts = st.integers(0, 10**6)


@st.composite
def recordings(draw):
    """Runs with steps one after the other, as the engine's are."""
    steps, at = [], 0.0
    for number in range(draw(st.integers(0, 6))):
        times = [draw(seconds) for _ in range(6)]
        outside = draw(seconds)
        at += outside
        numbers = [draw(counts) for _ in range(15)]
        steps.append(StepRecord(number, at, *times[:5], outside, *numbers, times[5]))
        at += sum(times)
    requests = []
    for number in range(draw(st.integers(0, 4))):
        added, wait, rest = draw(seconds), draw(st.none() | seconds), draw(seconds)
        first = None if wait is None else added + wait
        requests.append(RequestRecord(number, draw(counts), draw(counts), added, first, (first or added) + rest))
    hardware = [
        HardwareSample(draw(seconds), device, memory_used_bytes=draw(st.none() | counts), power_watts=draw(st.none() | seconds))
        for device in draw(st.lists(st.sampled_from(["gpu0", "host"]), max_size=3))
    ]
    return Recording("a run", {"model": "m"}, steps, requests, [], hardware)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(recording=recordings())
def test_any_recording_keeps_the_rules_of_the_format(recording, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "trace.json"
    write_trace(path, recording)
    trace = json.loads(path.read_text())
    check_rules(trace)
    steps = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] == "step"]
    assert len(steps) == len(recording.steps)
    for event, step in zip(steps, recording.steps, strict=True):
        assert event["ts"] == pytest.approx(step.start_seconds * 1e6, abs=NANOSECOND * 20)
        assert event["dur"] == pytest.approx(step.seconds * 1e6, abs=NANOSECOND * 20)


def test_the_rules_are_checked():
    good = {"ph": "X", "name": "a", "pid": 1, "tid": 1, "ts": 10, "dur": 5}
    check_rules({"displayTimeUnit": "ms", "traceEvents": [good, {**good, "ts": 11, "dur": 4}]})
    for bad in ({**good, "ts": 12}, {**good, "dur": -1}, {**good, "ph": "Z"}, {**good, "ts": "5"}):
        with pytest.raises(AssertionError):
            check_rules({"displayTimeUnit": "ms", "traceEvents": [good, bad]})
    with pytest.raises(AssertionError):
        check_rules({"displayTimeUnit": "ms", "traceEvents": [{**good, "ph": "C", "args": {"value": "7"}}]})


def example(num_steps=3):
    numbers = {
        "prefill_tokens": 7,
        "decode_tokens": 2,
        "num_running": 3,
        "num_waiting": 4,
        "num_preemptions": 0,
        "num_finished": 1,
    }
    blocks = {
        "blocks_total": 10,
        "blocks_used": 6,
        "blocks_cached": 1,
        "blocks_free": 3,
        "slots_filled": 80,
        "blocks_shared": 1,
    }
    rest = {"blocks_unshared": 8, "num_copies": 1, "num_swapped_blocks": 0, "detokenize_seconds": 0.001}
    times = {"schedule_seconds": 0.001, "prepare_seconds": 0.002, "forward_seconds": 0.1, "sample_seconds": 0.003}
    times |= {"commit_seconds": 0.001, "outside_seconds": 0.01}
    steps = [StepRecord(step=i, start_seconds=0.2 * i, **times, **numbers, **blocks, **rest) for i in range(num_steps)]
    sample = HardwareSample(0.1, "gpu0", power_watts=300.0, memory_used_bytes=3 << 30, throttle_reasons=("power cap",))
    return Recording("a run", {"model": "m"}, steps, [RequestRecord(5, 10, 20, 0.0, 0.15, 0.5)], [], [sample])


def test_phases_lie_in_their_step_and_counters_have_their_values(tmp_path):
    write_trace(tmp_path / "trace.json", example())
    trace = json.loads((tmp_path / "trace.json").read_text())
    check_rules(trace)
    assert trace["otherData"]["model"] == "m"
    first = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["ts"] < 200_000]
    assert [e["name"] for e in first] == ["step 0", "schedule", "prepare", "forward", "sample", "commit", "detokenize"]
    assert first[3]["ts"] == 3000
    assert first[3]["dur"] == 100_000
    counters = {e["name"]: e["args"] for e in trace["traceEvents"] if e["ph"] == "C"}
    assert counters["KV blocks"] == {"used": 6, "cached": 1, "free": 3}
    assert counters["sequences"] == {"running": 3, "waiting": 4}
    assert counters["gpu0 power (W)"] == {"value": 300.0}
    assert counters["gpu0 memory used (MiB)"] == {"value": 3072.0}
    names = [(e["ph"], e["name"]) for e in trace["traceEvents"] if e["ph"] in "be"]
    assert names[0] == ("b", "request 5")
    assert names[-1] == ("e", "request 5")


def test_a_long_run_is_cut_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_file, "MAX_TRACE_STEPS", 10)
    write_trace(tmp_path / "trace.json", example(25))
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert len([e for e in trace["traceEvents"] if e.get("cat") == "step"]) == 10
    assert trace["otherData"]["shown"] == "the first 10 steps"


def test_a_trace_that_cannot_be_written_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"trace\.json cannot be written"):
        write_trace(tmp_path / "missing" / "trace.json", example())
