"""Whole jobs over hostile input, in small: every row ends as a row or an error row, with exit code 0 or 5 and no other."""

import random

import pytest
from hostile_jobs import Jobs, Tally, damaged_job, json_job, parquet_job


@pytest.fixture
def jobs(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)
    with Jobs(tiny_model("opt"), tmp_path) as jobs:
        yield jobs


@pytest.mark.slow
@pytest.mark.parametrize("job", [json_job, parquet_job, damaged_job])
def test_every_row_ends_as_a_row_or_an_error_row(jobs, job):
    tally = Tally()
    for number in range(1 if job is json_job else 8):
        job(jobs, random.Random(f"small {job.__name__} {number}"), tally, **({"num_rows": 150} if job is json_job else {}))
    assert tally.num_rows
    assert not tally.failures
