"""When error rows end a job, and what is kept then."""

import pytest
from fake_engine import FakeEngine
from test_job_loop import ListSource, ListWriter, make_run, prompts

from pagecli.jobs.run.job_loop import ErrorPolicy


@pytest.mark.parametrize(
    ("policy", "num_rows", "num_errors", "stops"),
    [
        (ErrorPolicy(), 1000, 1000, False),
        (ErrorPolicy(on_error="stop"), 1000, 1, True),
        (ErrorPolicy(on_error="stop"), 1000, 0, False),
        (ErrorPolicy(max_error_rate=0.05), 5, 5, False),
        (ErrorPolicy(max_error_rate=0.05), 6, 6, True),
        (ErrorPolicy(max_error_rate=0.05), 1000, 50, False),
        (ErrorPolicy(max_error_rate=0.05), 1000, 51, True),
        (ErrorPolicy(max_error_rate=0.0), 1000, 1, True),
        (ErrorPolicy(max_error_rate=1.0), 1000, 1000, False),
    ],
)
def test_when_error_rows_end_a_job(policy, num_rows, num_errors, stops):
    assert (policy.reason_to_stop(num_rows, num_errors) is not None) == stops


def test_error_policy_stops_a_run_and_keeps_what_was_finished():
    rows = [{"prompt": "a"}, {"prompt": 1}, *prompts(1000)]
    writer = ListWriter()
    run = make_run(FakeEngine(), writer, error_policy=ErrorPolicy(on_error="stop"))
    result = run.run(ListSource(rows))
    run.keep_finished()
    assert result.ended_early
    assert "--on-error is stop" in result.too_many_errors
    assert [row.row.index for row in writer.rows if row.error is not None] == [1]
    assert len(writer.rows) < 50
