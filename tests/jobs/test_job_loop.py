"""The loop around the engine: order, bounded memory, bad rows, signals, failures, and threads that end."""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from fake_engine import FakeEngine, FakeTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.cli.generate.reporting import job_stats, write_stats
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import InputError
from pagecli.jobs.monitoring.monitor import JobSnapshot
from pagecli.jobs.rows.row import InputRow, RowEstimate
from pagecli.jobs.rows.row_preparer import PromptOptions, RowPreparer, row_key
from pagecli.jobs.run.job_loop import JobRun, LoopLimits
from pagecli.jobs.run.stop_signals import StopRequested, stop_signals
from pagecli.jobs.storage.atomic_file import WholeFile


class ListSource:
    """Rows out of a list, counting how many have been read."""

    name = "list"
    schema = None

    def __init__(self, columns: list[dict], fail_at: int | None = None) -> None:
        self._columns = columns
        self._fail_at = fail_at
        self.num_read = 0
        self.closed = False

    def __iter__(self) -> Iterator[InputRow]:
        for index, columns in enumerate(self._columns):
            if index == self._fail_at:
                raise InputError("the file is cut short")
            self.num_read += 1
            yield InputRow(index, columns, line=index + 1, error=columns.get("broken"))

    def estimate(self) -> RowEstimate:
        return RowEstimate(len(self._columns), exact=True)

    def check_unchanged(self) -> None: ...

    def interrupt(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class ListWriter:
    """Keeps rows in a list; `before` is called for each."""

    def __init__(self, before=lambda row: None) -> None:
        self.rows = []
        self.num_rows = 0
        self._before = before

    def write(self, row) -> None:
        self._before(row)
        self.rows.append(row)
        self.num_rows += 1


def make_run(engine, writer, limits=None, **settings_):
    preparer = RowPreparer(FakeTokenizer(), 256, PromptOptions(), SamplingParams(max_tokens=5))
    return JobRun(engine, preparer.prepare, writer, limits or LoopLimits(8, 16, 8), **settings_)


def prompts(count: int) -> list[dict]:
    return [{"prompt": f"prompt {i}", "id": f"id {i}"} for i in range(count)]


@pytest.fixture(autouse=True)
def no_thread_outlives_its_run():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(0, 60),
    seed=st.integers(0, 10**6),
    num_seqs=st.integers(1, 9),
    active=st.integers(1, 20),
    held=st.integers(0, 20),
)
def test_rows_come_out_in_input_order_whatever_finishes_first(num_rows, seed, num_seqs, active, held):
    writer, source = ListWriter(), ListSource(prompts(num_rows))
    run = make_run(FakeEngine(num_seqs, seed), writer, LoopLimits(active, active + held, 3))
    result = run.run(source)
    assert [row.row.index for row in writer.rows] == list(range(num_rows))
    assert [row.text for row in writer.rows] == [f"prompt {i}"[::-1][:5] for i in range(num_rows)]
    assert (result.num_rows, result.num_error_rows, result.finish_reasons["length"]) == (num_rows, 0, num_rows)
    assert source.closed


@pytest.mark.parametrize("order", ["input", "completion"])
def test_completion_order_writes_rows_as_they_finish(order):
    writer = ListWriter()
    make_run(FakeEngine(seed=1), writer, order=order).run(ListSource(prompts(200)))
    indexes = [row.row.index for row in writer.rows]
    assert sorted(indexes) == list(range(200))
    assert (indexes == sorted(indexes)) == (order == "input")


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), active=st.integers(1, 10), held=st.integers(0, 10), prefetched=st.integers(1, 5))
def test_rows_in_flight_never_exceed_the_window(seed, active, held, prefetched):
    source, engine, most = ListSource(prompts(150)), FakeEngine(3, seed), [0]
    limits = LoopLimits(active, active + held, prefetched)

    def look(row) -> None:
        assert len(engine._requests) <= active
        most[0] = max(most[0], source.num_read - row.row.index)

    writer = ListWriter(before=look)
    make_run(engine, writer, limits).run(source)
    assert len(writer.rows) == 150
    assert most[0] <= limits.max_outstanding + limits.max_prefetched + 3  # one in the reader's hands, one in ours


def test_bad_rows_become_error_rows_in_their_place():
    rows = [{"prompt": "a"}, {"broken": "line 2: invalid JSON"}, {"prompt": 3}, {"prompt": "x" * 99}, {"prompt": "b"}]
    writer = ListWriter()
    result = make_run(FakeEngine(longest_prompt=50), writer).run(ListSource(rows))
    assert [row.error for row in writer.rows] == [
        None,
        "line 2: invalid JSON",
        "line 3: column prompt is int, not text",
        "line 4: the prompt has 99 tokens; shorten it",
        None,
    ]
    assert [row.prompt_tokens for row in writer.rows] == [1, None, None, 99, 1]
    assert (result.num_rows, result.num_error_rows, result.first_error) == (5, 3, "line 2: invalid JSON")


def test_error_of_a_request_becomes_an_error_row():
    class Failing(FakeEngine):
        def _output(self, request_id):
            output = super()._output(request_id)
            return type(output)(request_id, output.num_prompt_tokens, (), "ran out") if request_id == 1 else output

    writer = ListWriter()
    result = make_run(Failing(), writer).run(ListSource(prompts(3)))
    assert [row.error for row in writer.rows] == [None, "line 2: ran out", None]
    assert result.first_error == "line 2: ran out"


def test_row_keys_follow_the_id():
    engine = FakeEngine()
    make_run(engine, ListWriter()).run(ListSource([{"prompt": "a", "id": "x"}, {"prompt": "b"}]))
    assert engine.row_keys == {0: row_key(InputRow(0, {"id": "x"})), 1: 1}


def test_reading_error_surfaces_and_rows_that_finished_before_their_turn_can_be_kept():
    class FirstNeverEnds(FakeEngine):
        def step(self):
            first = self._requests.pop(0)
            outputs = super().step()
            self._requests[0] = first
            return outputs

    writer, source = ListWriter(), ListSource(prompts(12), fail_at=10)
    run = make_run(FirstNeverEnds(), writer)
    with pytest.raises(InputError, match="cut short"):
        run.run(source)
    assert writer.rows == []
    run.keep_finished()
    indexes = [row.row.index for row in writer.rows]
    assert len(indexes) > 0
    assert indexes == sorted(indexes)
    assert set(indexes) <= set(range(1, 10))
    assert source.closed


@pytest.mark.parametrize("breaks", ["engine", "writer"])
def test_failure_of_engine_or_writer_ends_the_reader_too(breaks):
    def fail(*args):
        raise RuntimeError("boom")

    engine, writer = FakeEngine(), ListWriter(before=fail if breaks == "writer" else lambda row: None)
    if breaks == "engine":
        engine.step = fail
    with pytest.raises(RuntimeError, match="boom"):
        make_run(engine, writer).run(ListSource(prompts(10_000)))


def test_stop_request_ends_the_run_between_steps():
    engine, writer = FakeEngine(seed=2), ListWriter()
    source = ListSource(prompts(10_000))
    result = make_run(engine, writer, stop_requested=lambda: signal.SIGTERM if engine.num_steps == 5 else None).run(source)
    assert result.stopped_by == signal.SIGTERM
    assert engine.num_steps == 5
    assert engine.aborted
    assert not engine.has_unfinished()
    assert source.num_read < 100


def test_stop_request_is_seen_while_every_row_is_bad():
    writer = ListWriter()
    run = make_run(FakeEngine(), writer, stop_requested=lambda: signal.SIGINT if len(writer.rows) > 100 else None)
    assert run.run(ListSource([{"prompt": None}] * 100_000)).stopped_by == signal.SIGINT
    assert len(writer.rows) < 200


def test_first_rows_run_while_later_ones_are_still_being_read():
    """The source continues only when the first row has been written."""
    written = threading.Event()

    class Waiting(ListSource):
        def __iter__(self):
            yield InputRow(0, {"prompt": "a"})
            assert written.wait(10)
            yield InputRow(1, {"prompt": "b"})

    writer = ListWriter(before=lambda row: written.set())
    assert make_run(FakeEngine(), writer).run(Waiting([])).num_rows == 2


class SeenProgress:
    """A run's monitor that keeps what it hears."""

    def __init__(self) -> None:
        self.estimates: list[RowEstimate] = []
        self.figures: list[dict] = []

    def progress(self, estimate, **fields):
        self.estimates.append(estimate)
        self.figures.append(dataclasses.asdict(dataclasses.replace(JobSnapshot(), **fields)))

    def checkpoint(self, num_rows): ...


def test_progress_tells_where_the_job_stands(monkeypatch):
    monkeypatch.setattr("pagecli.jobs.run.job_loop.PROGRESS_SECONDS", 0.0)
    seen = SeenProgress()
    make_run(FakeEngine(), ListWriter(), monitor=seen).run(ListSource(prompts(50)))
    rows = [figures["num_rows"] for figures in seen.figures]
    assert rows == sorted(rows)
    assert rows[-1] == 50
    assert seen.estimates[0] == RowEstimate(50, exact=True)


class TwoSamples(FakeEngine):
    def _output(self, request_id):
        output = super()._output(request_id)
        (sequence,) = output.sequences
        return dataclasses.replace(output, sequences=(sequence, dataclasses.replace(sequence, sample=1)))


def test_progress_counts_input_rows_however_many_samples_are_written_of_each(monkeypatch):
    monkeypatch.setattr("pagecli.jobs.run.job_loop.PROGRESS_SECONDS", 0.0)
    seen, writer = SeenProgress(), ListWriter()
    result = make_run(TwoSamples(), writer, monitor=seen).run(ListSource(prompts(50)))
    assert (seen.figures[-1]["num_rows"], result.num_rows, len(writer.rows)) == (50, 100, 100)


def test_stats_have_every_documented_figure(tmp_path):
    run = make_run(FakeEngine(), ListWriter())
    started = time.perf_counter()
    result = run.run(ListSource([*prompts(3), {"prompt": 1}]))
    write_stats(WholeFile(tmp_path / "stats.json"), job_stats({"output_tokens": 15, "kv_block_size": 16}, result, started, "m"))
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["schema_version"] == 1
    assert (stats["num_rows"], stats["num_error_rows"], stats["finish_reasons"]) == (4, 1, {"error": 1, "length": 3})
    assert stats["output_tokens_per_second"] == pytest.approx(15 / stats["generate_seconds"])
    assert 0 < stats["time_to_first_row_seconds"] <= time.perf_counter() - started
    assert stats["peak_rss_bytes"] > 2**20
    assert {"pagecli", "python", "pyarrow"} <= set(stats["versions"])
    assert stats["kv_block_size"] == 16


def test_signals_raise_outside_a_run_and_are_noted_inside():
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StopRequested) as caught, stop_signals():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.signum == signal.SIGTERM
    with stop_signals() as signals:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        assert signals.received == signal.SIGINT
    assert signal.getsignal(signal.SIGTERM) is former


class FirstRowIsLong(FakeEngine):
    """Row 0 ends after so many others, however slowly they come."""

    def __init__(self, num_others: int) -> None:
        super().__init__()
        self._num_others = num_others

    def step(self):
        first = self._requests.pop(0, None) if self._num_others else None
        outputs = super().step()
        self._num_others -= len(outputs)
        if first is not None:
            self._requests = {0: first, **self._requests}
        return outputs


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.sampled_from(["good", "bad"]), min_size=2, max_size=40), order=st.sampled_from(["input", "completion"]))
def test_rows_count_when_they_finish_even_while_the_first_holds_back_the_output(rows, order):
    """Counts, tokens' reasons, errors, the first error and the error rate, whatever has been written."""
    columns = [{"prompt": "long"}] + [{"prompt": "a"} if row == "good" else {"broken": "bad"} for row in rows]
    engine, writer, stop = FirstRowIsLong(rows.count("good")), ListWriter(), [False]
    run = make_run(engine, writer, LoopLimits(8, 64, 8), order=order, stop_requested=lambda: 15 if stop[0] else None)

    def step() -> list:
        outputs = FirstRowIsLong.step(engine)
        stop[0] = len(engine._requests) == 1 and run.result.num_input_rows + len(outputs) == len(rows)
        return outputs

    engine.step = step
    result = run.run(ListSource(columns))
    num_bad = rows.count("bad")
    done = len(rows) + (not stop[0])
    assert (result.num_input_rows, result.num_rows, result.num_error_rows) == (done, done, num_bad)
    assert result.first_error == (f"line {rows.index('bad') + 2}: bad" if num_bad else None)
    assert result.first_row_at is not None
    assert len(writer.rows) == (done if order == "completion" or not stop[0] else 0)
