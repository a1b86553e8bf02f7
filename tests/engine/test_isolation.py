"""A step that fails costs the request that causes it; what the engine that is broken altogether raises is what broke it."""

import pytest
from asynchronous_runner import AsynchronousRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cpu.device import ModelRunner
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine

NUM_ROWS = 30
SETTINGS = {"dtype": "float32", "kv_memory_bytes": 1 << 18, "block_size": 8, "max_batch_tokens": 64, "check_integrity": True}


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return loaded_model.load(EngineConfig(str(tiny_model("opt")), **SETTINGS, max_num_seqs=16))


@pytest.fixture(params=[ModelRunner, AsynchronousRunner], ids=["synchronous", "asynchronous"])
def start(request, loaded, monkeypatch):
    """start(max_num_seqs) -> an engine with rows in it"""

    def start_with(max_num_seqs=8, num_rows=NUM_ROWS):
        monkeypatch.setattr("pagecli.devices.cpu.device.ModelRunner", request.param)
        engine = Engine(EngineConfig(loaded.name, **SETTINGS, max_num_seqs=max_num_seqs), loaded)
        for i in range(num_rows):
            kind = ({}, {"temperature": 1.1, "n": 2}, {"beam_width": 2}, {"stop": ("a",)})[i % 4]
            engine.add_request(i, [5 + i, 9, 11, 4 + i % 3], SamplingParams(max_tokens=3 + i % 5, **kind))
        return engine

    return start_with


def run(engine):
    """(texts, errors) by row"""
    outputs = []
    while engine.has_unfinished():
        outputs += engine.step()
        assert engine.stats()["num_steps"] + engine.num_failed_steps < 3000
    assert engine._kv.num_used_blocks == 0
    assert engine.scheduler.is_idle
    texts = {o.request_id: [s.token_ids for s in o.sequences] for o in outputs if o.error is None}
    errors = {o.request_id: o.error for o in outputs if o.error is not None}
    assert len(outputs) == len(texts) + len(errors)
    return texts, errors


def fail_on(engine, culprits, once=()):
    """Every step that runs a request of `culprits` fails; one that runs a request of `once` fails the first time."""
    real, once = engine._runner.launch, set(once)

    def launch(plan):
        running = {spec.row_key for chunk in plan.chunks for spec in chunk.specs}
        if once & running:
            once.difference_update(running)
            raise MemoryError("once")
        if culprits & running:
            raise RuntimeError("kernel on fire")
        return real(plan)

    engine._runner.launch = launch


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.permutations(range(NUM_ROWS)), num_culprits=st.integers(0, 4), num_once=st.integers(0, 3))
def test_only_requests_that_fail_alone_come_back_with_an_error(start, rows, num_culprits, num_once):
    expected, _ = run(start())
    engine, culprits = start(), set(rows[:num_culprits])
    fail_on(engine, culprits, rows[num_culprits : num_culprits + num_once])
    texts, errors = run(engine)
    assert errors == dict.fromkeys(culprits, "the engine failed on this row: RuntimeError: kernel on fire")
    assert texts == {i: text for i, text in expected.items() if i not in culprits}
    assert (engine.num_failed_steps > 0) == bool(num_culprits + num_once)


def test_the_search_takes_logarithmically_many_steps(start):
    engine = start(max_num_seqs=16, num_rows=16)
    fail_on(engine, {11})
    assert list(run(engine)[1]) == [11]
    assert engine.num_failed_steps <= 8  # log2(16), the second try alone, and siblings of samples


def test_a_text_that_cannot_be_decoded_costs_its_row(start, monkeypatch):
    expected, _ = run(start())
    engine = start()
    poisoned, decode = expected[8][0], engine.tokenizer.decode

    def failing(token_ids, *args):
        if token_ids == poisoned:
            raise ValueError("no such text")
        return decode(token_ids, *args)

    monkeypatch.setattr(engine.tokenizer, "decode", failing)
    texts, errors = run(engine)
    assert errors == {8: "the engine failed on this row: ValueError: no such text"}
    assert texts == {i: text for i, text in expected.items() if i != 8}


def test_an_engine_that_fails_whatever_runs_raises_and_blames_no_request(start, monkeypatch):
    def fail(plan):
        raise RuntimeError("no device")

    engine = start()
    outputs = [output for _ in range(3) for output in engine.step()]
    monkeypatch.setattr(engine._runner, "launch", fail)

    def to_the_end():
        while engine.has_unfinished():
            outputs.extend(engine.step())

    with pytest.raises(RuntimeError, match="no device"):
        to_the_end()
    assert all(output.error is None for output in outputs)


def test_requests_that_come_or_are_given_up_during_the_search(start):
    expected, _ = run(start())
    engine = start(num_rows=20)
    fail_on(engine, {7})
    given_up, added, outputs = {3, 19}, False, []
    while engine.has_unfinished():
        outputs += engine.step()
        if engine.num_failed_steps >= 2 and not added:
            added = True
            given_up -= {output.request_id for output in outputs}
            for i in given_up:
                engine.abort(i)
            engine.add_request(NUM_ROWS, [5, 9, 11, 4], SamplingParams(max_tokens=3))
    texts = {o.request_id: [s.token_ids for s in o.sequences] for o in outputs if o.error is None}
    assert [o.request_id for o in outputs if o.error is not None] == [7]
    assert texts.pop(NUM_ROWS) == expected[0]
    assert texts == {i: expected[i] for i in range(20) if i not in given_up | {7}}
    assert engine._kv.num_used_blocks == 0


def test_where_failures_are_not_isolated_the_step_raises_and_its_requests_start_again(start):
    expected, _ = run(start())
    engine = start()
    engine.isolates_failures = False
    outputs = engine.step()
    fail_on(engine, set(), once={0, 9})
    with pytest.raises(MemoryError, match="once"):
        engine.step()
    engine._runner.launch = type(engine._runner).launch.__get__(engine._runner)
    texts, errors = run(engine)
    assert texts | {o.request_id: [s.token_ids for s in o.sequences] for o in outputs} == expected
    assert errors == {}
