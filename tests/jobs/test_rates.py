"""The time left that a job shows: from the rows so far, and unknown where the last rows contradict that."""

from dataclasses import replace

from pagecli.jobs.monitoring import monitor
from pagecli.jobs.monitoring.monitor import JobSnapshot, Rates


def test_one_long_last_row_leaves_the_time_left_unknown_instead_of_nothing(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clock[0])
    job, rates = JobSnapshot(num_rows_total=100), Rates()
    for num_rows in range(100):
        clock[0] += 0.1
        job = replace(job, num_rows=num_rows)
        left = rates.of(job)["eta_seconds"]
        assert num_rows == 0 or abs(left - 0.1 * (100 - num_rows)) < 0.02
    clock[0] += 0.9
    assert rates.of(job)["eta_seconds"] is not None, "a second without a row says nothing yet"
    clock[0] += 5
    assert rates.of(job)["eta_seconds"] is None
    assert rates.of(replace(job, num_rows=100))["eta_seconds"] == 0
