"""The event stream: documented events in order, to descriptors, files and pipes, and never a wait for the reader."""

import json
import os
import threading
import time
from dataclasses import replace

import pytest

from pagecli.errors import InputError, UsageError
from pagecli.jobs.monitoring.monitor import JobMonitor, JobSnapshot
from pagecli.jobs.monitoring.progress_json import MAX_EVENT_BYTES, ProgressEvents, open_event_stream
from pagecli.jobs.rows.row import RowEstimate

JOB = JobSnapshot("in.jsonl", "out.parquet", "m", pid=os.getpid())
STATS = {"load_seconds": 1.5, "num_input_rows": 10, "num_error_rows": 1, "output_tokens": 60, "finish_reasons": {"stop": 10}}


def look(num_rows: int = 5, num_errors: int = 0) -> JobSnapshot:
    return replace(JOB, num_rows=num_rows, num_error_rows=num_errors, num_rows_total=10, kv_usage=0.25, output_tokens=30)


def ended(exit_code: int, error: str | None = None, stats: dict | None = None) -> JobSnapshot:
    rows = {"num_rows": 10, "num_error_rows": 1} if stats else {}
    return replace(JOB, phase="ended", exit_code=exit_code, error=error, stats=stats or {}, **rows)


def lines(text: str | bytes) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_events_of_a_job_in_order(tmp_path):
    events = ProgressEvents(str(tmp_path / "events.jsonl"))
    events.on_event("start", JOB)
    events.on_event("loaded", replace(JOB, engine=STATS))
    events.on_event("progress", look())
    events.on_event("progress", look(7, 2))
    events.on_event("checkpoint", replace(JOB, checkpoint_rows=7))
    events.on_event("end", ended(5, stats=STATS))
    events.close()
    found = lines((tmp_path / "events.jsonl").read_text())
    assert [line["event"] for line in found] == ["start", "loaded", "progress", "row_errors", "progress", "checkpoint", "end"]
    assert all(line["time"].endswith("Z") for line in found)
    assert (found[0]["pid"], found[0]["output"], found[0]["schema_version"]) == (os.getpid(), "out.parquet", 1)
    assert found[2]["num_rows_total"] == 10
    assert found[2]["total_is_exact"] is False
    assert found[3]["num_error_rows"] == 2
    assert (found[-1]["exit_code"], found[-1]["num_rows"], found[-1]["num_dropped_events"]) == (5, 10, 0)


def test_a_file_is_appended_to(tmp_path):
    for _ in range(2):
        events = ProgressEvents(str(tmp_path / "events.jsonl"))
        events.on_event("start", JOB)
        events.close()
    assert len(lines((tmp_path / "events.jsonl").read_text())) == 2


def test_progress_comes_at_most_once_a_second(tmp_path):
    monitor = JobMonitor(JOB, [ProgressEvents(str(tmp_path / "events.jsonl"))], pytest.fail)
    for _ in range(500):
        monitor.progress(RowEstimate(10, False), num_rows=5)
    monitor.close()
    assert len(lines((tmp_path / "events.jsonl").read_text())) == 1


def test_a_reader_that_does_not_read_costs_progress_events_only():
    read, write = os.pipe()
    events = ProgressEvents(str(write))
    os.close(write)
    started = time.monotonic()
    events.on_event("start", JOB)
    for _ in range(2000):
        events.on_event("progress", look())
    events.on_event("loaded", replace(JOB, engine=STATS))
    events.on_event("end", ended(0, stats=STATS))
    assert time.monotonic() - started < 5
    found = []
    reader = threading.Thread(target=lambda: found.extend(lines(os.fdopen(read, "rb").read())))
    reader.start()
    events.close()
    reader.join()
    names = [line["event"] for line in found]
    assert (names[0], names[-2:]) == ("start", ["loaded", "end"])
    assert found[-1]["num_dropped_events"] == 2000 - names.count("progress") > 0


def test_a_reader_that_stays_away_is_waited_for_only_a_moment_at_the_end():
    read, write = os.pipe()
    stream = open_event_stream(str(write))
    for _ in range(2000):
        stream.put({"event": "progress", "figures": "x" * 100}, keep=False)
    stream.put({"event": "end"}, keep=True)
    started = time.monotonic()
    stream.close(wait_seconds=0.1)
    assert 0.05 < time.monotonic() - started < 1
    os.close(read)
    os.close(write)


def test_a_reader_that_goes_away_does_not_disturb():
    read, write = os.pipe()
    events = ProgressEvents(str(write))
    os.close(write)
    events.on_event("start", JOB)
    assert [line["event"] for line in lines(os.read(read, 65536))] == ["start"]
    os.close(read)
    events.on_event("progress", look())
    events.on_event("end", ended(0))
    events.close()


def test_the_descriptor_of_the_caller_stays_open_and_blocking():
    read, write = os.pipe()
    open_event_stream(str(write)).close()
    assert os.get_blocking(write)
    os.write(write, b"mine")
    assert os.read(read, 10) == b"mine"
    os.close(read)
    os.close(write)


def test_a_line_is_never_longer_than_a_pipe_takes_whole(tmp_path):
    events = ProgressEvents(str(tmp_path / "events.jsonl"))
    events.on_event("start", JobSnapshot("ä" * 5000, "ö" * 5000, "ü" * 5000))
    events.on_event("end", ended(1, "ß" * 9000))
    events.close()
    content = (tmp_path / "events.jsonl").read_bytes()
    assert len(lines(content)) == 2
    assert all(len(line) < MAX_EVENT_BYTES for line in content.splitlines())


def test_targets_that_cannot_be_written_are_refused_in_one_line(tmp_path):
    read, write = os.pipe()
    os.mkfifo(tmp_path / "pipe")
    for target, says in (
        ("987", "no such open descriptor"),
        ("99999999999999999999", "no such open descriptor"),
        (str(read), "open for reading only"),
        (str(tmp_path), "is a directory"),
        (str(tmp_path / "none" / "e"), "cannot be written"),
        (str(tmp_path / "pipe"), "no process reads this pipe"),
    ):
        with pytest.raises((UsageError, InputError), match=says):
            open_event_stream(target)
    os.close(read)
    os.close(write)


def test_a_listener_that_fails_is_said_once_and_the_job_goes_on(tmp_path):
    class Broken(ProgressEvents):
        interval = 0.0

        def on_event(self, event, job):
            if event == "progress":
                raise OSError("disk gone")
            super().on_event(event, job)

    said = []
    monitor = JobMonitor(JOB, [Broken(str(tmp_path / "e"))], said.append)
    monitor.progress(RowEstimate(10, False), num_rows=5)
    monitor.progress(RowEstimate(10, False), num_rows=5)
    monitor.end(0)
    monitor.end(1)
    monitor.close()
    assert len(said) == 1
    assert "disk gone; the job continues" in said[0]
    assert [line["exit_code"] for line in lines((tmp_path / "e").read_text())] == [0]
