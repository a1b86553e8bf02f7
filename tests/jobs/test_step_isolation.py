"""A step that fails costs the row that causes it; the engine that is broken altogether ends the job."""

import pytest
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runner import ListSource, ListWriter, make_run, prompts

from pagecli.errors import ErrorCode
from pagecli.jobs.run.error_policy import ErrorPolicy


class Fragile(FakeEngine):
    """Fails in every step in which a row of `culprits` runs; the other rows of `once` fail only the first time."""

    def __init__(self, culprits=(), once=(), **settings_):
        super().__init__(**settings_)
        self.culprits, self.once = set(culprits), set(once)

    def step(self):
        running = set(list(self._requests)[: self._max_num_seqs])
        for index in self.once & running:
            self.once.discard(index)
            raise MemoryError(f"row {index}, once")
        if self.culprits & running:
            raise RuntimeError("kernel on fire")
        return super().step()


def reversed_prompts(count: int) -> list[str]:
    return [f"prompt {i}"[::-1][:5] for i in range(count)]


@settings(max_examples=40, deadline=None)
@given(
    culprits=st.sets(st.integers(0, 49), max_size=6),
    once=st.sets(st.integers(0, 49), max_size=6),
    seqs=st.integers(1, 16),
    seed=st.integers(0, 10**6),
)
def test_only_rows_that_fail_alone_become_error_rows(culprits, once, seqs, seed):
    writer = ListWriter()
    engine = Fragile(culprits, once - culprits, max_num_seqs=seqs, seed=seed)
    result = make_run(engine, writer).run(ListSource(prompts(50)))
    expected = [None if i in culprits else text for i, text in enumerate(reversed_prompts(50))]
    assert [row.row.index for row in writer.rows] == list(range(50))
    assert [row.text for row in writer.rows] == expected
    for row in writer.rows:
        if row.row.index in culprits:
            assert row.error.endswith("the engine failed on this row: RuntimeError: kernel on fire")
            assert row.error_code == ErrorCode.ENGINE_FAILURE
            assert row.prompt_tokens == len(row.row.columns["prompt"])
    assert result.num_error_rows == len(culprits)
    assert (result.num_failed_steps > 0) == bool(culprits or once)
    assert not engine.has_unfinished()


def test_search_takes_logarithmically_many_steps():
    engine = Fragile({100}, max_num_seqs=256, seed=1)
    writer = ListWriter()
    from pagecli.jobs.run.job_loop import Window

    result = make_run(engine, writer, Window(256, 512, 256)).run(ListSource(prompts(256)))
    assert result.num_error_rows == 1
    assert result.num_failed_steps <= 10  # log2(256), and the second try alone


def test_engine_that_fails_whatever_runs_ends_the_job_and_no_row_is_blamed():
    class Broken(Fragile):
        def step(self):
            if self.num_steps > 5:
                raise RuntimeError("no device")
            return super().step()

    writer = ListWriter()
    with pytest.raises(RuntimeError, match="no device"):
        make_run(Broken(), writer).run(ListSource(prompts(100)))
    assert all(row.error is None for row in writer.rows)


def test_engine_that_cannot_even_abort_ends_the_job():
    class Stuck(Fragile):
        def abort(self, request_id):
            raise ValueError("lost count")

    with pytest.raises(RuntimeError, match="kernel on fire"):
        make_run(Stuck({3}), ListWriter()).run(ListSource(prompts(10)))


def test_requests_that_the_failed_step_had_finished_are_run_again():
    class FailsAfterFinishing(FakeEngine):
        failed = False

        def step(self):
            outputs = super().step()
            if outputs and not self.failed:
                self.failed = True
                raise RuntimeError("while decoding text")  # what it had finished is no longer in the engine
            return outputs

    writer = ListWriter()
    make_run(FailsAfterFinishing(seed=4), writer).run(ListSource(prompts(20)))
    assert [row.text for row in writer.rows] == reversed_prompts(20)


def test_stop_while_searching_leaves_nothing_in_the_engine():
    engine = Fragile({5}, max_num_seqs=8)
    run = make_run(engine, ListWriter(), stop_requested=lambda: 2 if run._engine.num_failed_steps >= 2 else None)
    assert run.run(ListSource(prompts(50))).stopped_by == 2
    assert not engine.has_unfinished()


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
