"""The rows of a pool: whatever workers do and however they end, each row ends exactly once, or is still there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ErrorCode
from pagecli.jobs.workers import outstanding
from pagecli.jobs.workers.outstanding import OutstandingRows
from pagecli.jobs.workers.worker import PoolRow

ACTIONS = ["add", "take", "finish", "lose", "copy", "forget"]


def row(request_id):
    return PoolRow(request_id, [1], SamplingParams(), request_id)


def ids(rows):
    return [row.request_id for row in rows]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3), st.integers(1, 4)), max_size=60))
def test_every_row_ends_exactly_once(actions):
    rows, added, ended, outstanding.COPY_AFTER_SECONDS = OutstandingRows(), 0, [], 0.0
    for action, worker, number in actions:
        held = sorted(rows.on_worker(worker))
        if action == "add":
            for _ in range(number):
                rows.add(row(added))
                added += 1
        elif action == "take":
            taken = rows.take(worker, number)
            assert not set(ids(taken)) & set(held)
        elif action == "copy" and not held:
            rows.copy_for(worker)
        elif action == "finish" and held:
            request_id = held[number % len(held)]
            for other in rows.finish(worker, request_id) or set():
                assert request_id not in rows.on_worker(other)
            ended.append(request_id)
            assert rows.finish(worker, request_id) is None
        elif action == "lose":
            failed = rows.lose(worker, "killed")
            assert all(output.error_code is ErrorCode.WORKER_LOST for output in failed)
            ended += [output.request_id for output in failed]
            assert rows.on_worker(worker) == set()
        elif action == "forget" and held:
            rows.forget(held[0])
            ended.append(held[0])
        assert len(rows) == added - len(ended)
    for worker in range(4):
        ended += [output.request_id for output in rows.lose(worker, "killed")]
    while len(rows):  # a worker that lives finishes all that are left
        taken = rows.take(9, 3)
        assert taken
        for request_id in ids(taken):
            assert rows.finish(9, request_id) is not None
            ended.append(request_id)
    assert sorted(ended) == list(range(added))


def test_lost_rows_come_first_then_run_alone_and_fail_only_when_they_end_three_workers_alone():
    rows = OutstandingRows()
    for request_id in range(4):
        rows.add(row(request_id))
    assert ids(rows.take(0, 2)) == [0, 1]
    assert rows.lose(0, "killed") == []
    assert ids(rows.take(1, 3)) == [0, 1, 2]
    assert rows.lose(1, "killed") == []
    assert ids(rows.take(2, 8)) == [0]  # alone, the second time it was lost
    assert rows.take(2, 8) == []
    assert ids(rows.take(3, 8)) == [1]
    assert rows.finish(3, 1) == set()
    rows.add(row(4))
    assert rows.lose(2, "killed") == []
    assert ids(rows.take(2, 8)) == [2, 3, 4]  # row 0 was lost alone: it waits until no other row does
    assert ids(rows.take(3, 8)) == [0]
    assert rows.lose(3, "killed") == []
    assert ids(rows.take(3, 8)) == [0]
    (failed,) = rows.lose(3, "killed by SIGSEGV")
    assert failed.request_id == 0
    assert "5 workers ended while they ran this row, the last 3 alone with it: killed by SIGSEGV" in failed.error
