"""Steps planned before the results of the ones in front of them are here: same texts, same memory, whatever happens."""

import pytest
from asynchronous_runner import AsynchronousRunner
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from late_machine import LateMachine
from simulated_machine import make_request, texts
from test_same_text import make_engine
from test_scheduler_random import RequestsOfAnyKind, alone

from pagecli.core.sampling_params import SamplingParams


class AnyUseWithLateResults(RequestsOfAnyKind):
    """As AnyUseOfTheScheduler, with one pending step between the operations."""

    def make_machine(self, block_size, spare, swap_blocks, caching):
        return LateMachine(3 * -(-18 // block_size) + spare, block_size, 6, 10, swap_blocks, caching)

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps):
        for _ in range(num_steps):
            if self.unfinished:
                self.check(self.machine.step()[1])

    def check(self, finished):
        for request in finished:
            del self.unfinished[request.request_id]
            assert texts([request]) == texts([alone(request)])

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def abort(self, data):
        self.machine.scheduler.abort(self.unfinished.pop(data.draw(st.sampled_from(sorted(self.unfinished)))))
        self.counted()

    def teardown(self):
        if hasattr(self, "machine"):
            for _ in range(2000):
                if self.unfinished:
                    self.step(1)
            self.machine.drain()
            assert not self.unfinished
            assert self.machine.kv.num_used_blocks == self.machine.kv.swap_pool.num_used == 0


@pytest.mark.slow
def test_any_use_with_late_results():
    checks = settings(
        deadline=None, max_examples=25, stateful_step_count=30, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    run_state_machine_as_test(AnyUseWithLateResults, settings=checks)


@pytest.mark.slow
def test_steps_overlap_and_a_token_past_an_early_end_is_dropped():
    machine = LateMachine(num_blocks=200)
    requests = [make_request(i, [i, 3, i], max_tokens=40) for i in range(20)]
    machine.run_all(requests)
    assert texts(requests) == texts([alone(r) for r in requests])
    assert machine.num_overlapped > 20
    assert machine.num_dropped > 0
    assert machine.kv.num_used_blocks == 0


ROWS = [
    ([5 + i % 7, 9, 11 + i, 4] * (1 + i % 9), SamplingParams(max_tokens=5 + i % 12, **kind))
    for i, kind in enumerate(
        (
            {},
            {"temperature": 1.1, "n": 3},
            {"temperature": 1.3, "seed": 4},
            {"stop": ("a",)},
            {"stop_token_ids": tuple(range(60))},
        )
        * 5
        + ({"logprobs": 1}, {"beam_width": 2}, {"min_tokens": 3, "temperature": 2.0}, {"repetition_penalty": 1.3})
    )
]


def run(engine, aborted=()):
    for i, (prompt, params) in enumerate(ROWS):
        engine.add_request(i, prompt, params)
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output for output in engine.step()}
        for i in aborted:
            if i in engine._requests:
                engine.abort(i)
    assert engine._kv.num_used_blocks == 0
    return {i: done[i].sequences for i in done if i not in aborted}


@pytest.fixture(scope="module")
def expected(tiny_model):
    """What comes out of ROWS in one batch, of steps that do not overlap."""
    return run(make_engine(tiny_model("opt")))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_num_seqs": 6, "max_batch_tokens": 16},
        {"num_slots": 160, "block_size": 8},
        {"num_slots": 160, "block_size": 8, "preemption": "swap", "swap_slots": 512},
        {"batching": "static", "max_num_seqs": 8},
    ],
    ids=["one batch", "chunked", "recompute", "swap", "static"],
)
def test_texts_do_not_depend_on_the_overlap_of_steps(tiny_model, expected, config, monkeypatch):
    path = tiny_model("opt")
    monkeypatch.setattr("pagecli.devices.cpu.device.ModelRunner", AsynchronousRunner)
    engine = make_engine(path, **config)
    assert run(engine) == expected
    engine = make_engine(path, **config)
    assert run(engine, aborted=(3, 8)) == {i: s for i, s in expected.items() if i not in (3, 8)}


@pytest.mark.parametrize("where", ["launch", "collect"])
def test_a_step_that_fails_leaves_an_engine_that_goes_on(tiny_model, expected, monkeypatch, where):
    monkeypatch.setattr("pagecli.devices.cpu.device.ModelRunner", AsynchronousRunner)
    engine = make_engine(tiny_model("opt"))
    calls, real = [], getattr(engine._runner, where)

    def failing(argument):
        calls.append(1)
        if len(calls) in (2, 7):
            raise RuntimeError("kernel on fire")
        return real(argument)

    monkeypatch.setattr(engine._runner, where, failing)
    assert run(engine) == expected
    assert len(calls) > 7
