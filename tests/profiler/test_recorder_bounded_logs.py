"""What is kept of a run in memory is bounded, evenly spread, and loses nothing of the sums."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.errors import InputError
from pagecli.profiler.recording import bounded_logs
from pagecli.profiler.recording.bounded_logs import BlockMapLog, RequestLog, StepLog
from pagecli.profiler.recording.records import RequestRecord, StepRecord
from pagecli.profiler.recording.steps_file import StepsFile, read_steps

NUM_FIELDS = len(dataclasses.fields(StepRecord))


def step(number):
    return (number, *(float(number + i) for i in range(7)), *(number * 3 + i for i in range(NUM_FIELDS - 9)), 0.5)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(num_steps=st.integers(0, 300), max_kept=st.integers(1, 64), row_group=st.integers(20, 100))
def test_every_step_is_in_the_file_and_in_the_sums_and_a_bounded_number_in_memory(
    num_steps, max_kept, row_group, tmp_path_factory
):
    path = tmp_path_factory.mktemp("steps") / "steps.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded_logs, "ROW_GROUP", row_group)
        log = StepLog(StepsFile(path, {"model": "m"}), max_kept)
        for i in range(num_steps):
            log.add(step(i))
        kept = log.close()
    everything = [StepRecord(*step(i)) for i in range(num_steps)]
    assert list(read_steps(path)) == everything
    assert log.num_steps == num_steps
    assert log.sums["decode_tokens"] == sum(s.decode_tokens for s in everything)
    assert log.sums["detokenize_seconds"] == 0.5 * num_steps
    assert kept == everything[:: log.stride]
    assert len(kept) <= max_kept
    assert log.stride == 1 or len(kept) * 2 + 1 >= max_kept, "no more is dropped than must be"


def test_a_file_that_cannot_be_written_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"steps\.parquet cannot be written"):
        StepsFile(tmp_path / "missing" / "steps.parquet", {})


def test_a_disk_that_fills_up_ends_the_file_and_not_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_logs, "ROW_GROUP", 10)
    file = StepsFile(tmp_path / "steps.parquet", {})
    log = StepLog(file)

    def full(rows):
        raise InputError("no space left", "free some")

    for i in range(35):
        log.add(step(i))
        if i == 15:
            monkeypatch.setattr(file, "write", full)
    assert len(log.close()) == log.num_steps == 35
    assert log.problem.message == "no space left"


def request(number):
    return RequestRecord(number, 10, 5, number * 0.1, number * 0.1 + 0.01, number * 0.1 + 1)


def test_of_many_requests_a_fair_sample_is_kept():
    log = RequestLog(max_kept=100)
    for i in range(10_000):
        log.add(request(i))
    kept = log.kept()
    assert (log.num_requests, log.prompt_tokens, log.output_tokens) == (10_000, 100_000, 50_000)
    assert len({r.request_id for r in kept}) == 100
    assert kept == sorted(kept, key=lambda r: r.finished_seconds)
    assert 3500 < sum(r.request_id for r in kept) / 100 < 6500


@given(num_steps=st.integers(1, 3000))
def test_block_maps_are_spread_evenly_over_a_run_of_any_length(num_steps):
    log = BlockMapLog(num_wanted=5)
    num_taken = 0
    for number in range(num_steps):
        if log.wants(number):
            log.add(number, 4, [3, 0, 0], [2, 0, 0], [1])
            num_taken += 1
    maps = log.chosen()
    assert len(maps) == min(5, num_steps)
    assert (maps[0].filled, maps[0].ref_counts) == ((3, -2, -1), (2, 0, 0))
    assert num_taken < 140, "pictures are not taken for nothing"
    if num_steps > 20:
        gaps = [b.step - a.step for a, b in itertools.pairwise([*maps])]
        assert max(gaps) <= num_steps / 5 * 1.6
        assert min(gaps) >= num_steps / 5 * 0.5
