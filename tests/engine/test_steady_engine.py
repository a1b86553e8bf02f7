"""An engine that plans batches that only decode as one, and makes their inputs from those of the step before, beside one that
does neither: the same outputs, counts and memory after every step, whatever the rows ask for and whatever fails."""

import sys

import numpy as np
import pytest
from asynchronous_runner import AsynchronousRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nightly import share
from test_same_text import BLOCK_BYTES, CONSTRAINED, KINDS

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.base import inputs_of
from pagecli.devices.cpu.device import ModelRunner
from pagecli.devices.decode_step import KeptInputs
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine

MORE = (
    *({"logprobs": 3}, {"stop": ("e", "a b")}, {"stop_token_ids": tuple(range(0, 384, 5))}, {"no_repeat_ngram_size": 2}),
    *({"min_tokens": 6, "ignore_eos": False}, {"repetition_penalty": 1.3, "frequency_penalty": 0.4}, {"prompt_logprobs": 1}),
)
ALL = KINDS + CONSTRAINED + MORE
ROW = st.tuples(st.lists(st.integers(3, 9), min_size=1, max_size=14), st.sampled_from(ALL), st.integers(7, 24))
OPERATION = st.one_of(
    st.tuples(st.just("add"), st.lists(ROW, min_size=1, max_size=6)),
    st.tuples(st.just("steps"), st.integers(1, 12)),
    st.tuples(st.just("steps"), st.integers(1, 12)),
    st.tuples(st.just("score"), st.lists(st.integers(3, 9), min_size=1, max_size=5)),
    st.tuples(st.just("abort"), st.integers(0, 5)),
    st.tuples(st.just("fail"), st.integers(0, 4)),
)
CONFIG = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 4, 16]),
        "max_num_seqs": st.sampled_from([6, 24]),
        "prefix_caching": st.booleans(),
        "preemption": st.sampled_from(["recompute", "swap"]),
        "batching": st.sampled_from(["continuous", "continuous", "static"]),
        "speculate": st.sampled_from([0, "auto"]),
    }
)
COUNTS = ("num_steps", "num_computed_tokens", "num_recomputed_tokens", "num_sampled_tokens", "output_tokens", "kv_blocks_peak")
COUNTS += ("kv_slot_utilization", "kv_sharing_saving", "num_preemptions", "num_swapped_blocks", "num_copy_on_write")


class CheckedInputs(KeptInputs):
    """Compares the inputs it keeps with those made anew."""

    num_kept = 0

    def of(self, plan):
        found, right = super().of(plan), inputs_of(plan, self._block_size)
        for name in type(right).__slots__:
            made, expected = getattr(found, name), getattr(right, name)
            if name == "block_tables":
                made = made[:, : expected.shape[1]]
            assert (made is None) == (expected is None)
            assert made is None or (made.dtype == expected.dtype and np.array_equal(made, expected)), name
        CheckedInputs.num_kept += plan.is_decode
        return found


class FailingAt:
    """A runner's launch that raises once, after so many calls."""

    def __init__(self, engine):
        self._launch, self.left = engine._runner.launch, -1
        engine._runner.launch = self

    def __call__(self, plan):
        self.left -= 1
        if self.left == -1:
            raise RuntimeError("kernel on fire")
        return self._launch(plan)


class EnginePair:
    def __init__(self, loaded, path, settings):
        memory = {"kv_memory_bytes": 160 * BLOCK_BYTES["llama"], "swap_memory_bytes": 320 * BLOCK_BYTES["llama"]}
        common = {"dtype": "float32", "threads": 1, "check_integrity": True, "max_batch_tokens": 32}
        config = EngineConfig(str(path), **common, **memory, **settings)
        self.both = [Engine(config, of_one) for of_one in loaded]
        self.both[0].scheduler.least_steady, self.both[1].scheduler.least_steady = 1, sys.maxsize
        self.both[0]._runner._kept_inputs = CheckedInputs(config.block_size)
        self.failing = [FailingAt(engine) for engine in self.both]
        self.num_requests, self.unfinished = 0, []

    def add(self, rows):
        for prompt, kind, max_tokens in rows:
            for engine in self.both:
                engine.add_request(
                    self.num_requests, prompt, SamplingParams(**({"ignore_eos": True} | kind_of(kind, max_tokens)))
                )
            self._added()

    def score(self, continuation):
        for engine in self.both:
            engine.add_score_request(self.num_requests, [5, 6, 7], [continuation, [4, *continuation]], num_top=1)
        self._added()

    def _added(self):
        self.unfinished.append(self.num_requests)
        self.num_requests += 1

    def abort(self, which):
        if self.unfinished:
            request_id = self.unfinished.pop(which % len(self.unfinished))
            for engine in self.both:
                engine.abort(request_id)

    def fail(self, after):
        for failing in self.failing:
            failing.left = after

    def steps(self, number):
        for _ in range(number):
            if not self.unfinished:
                return
            outputs, expected = (engine.step() for engine in self.both)
            assert outputs == expected
            for output in outputs:
                self.unfinished.remove(output.request_id)
            kept, plain = ((engine.stats(), engine._kv.snapshot(), engine._kv.filled_slots()) for engine in self.both)
            assert [kept[0].get(name) for name in COUNTS] == [plain[0].get(name) for name in COUNTS]
            assert kept[1:] == plain[1:]


def kind_of(kind, max_tokens):
    constrained = {"ignore_eos": False} if {"json_schema", "choice", "regex"} & {*kind} else {}
    return {"max_tokens": max_tokens, **constrained, **kind}


@pytest.fixture(scope="module")
def loaded(tiny_model):
    config = EngineConfig(str(tiny_model("llama")), dtype="float32", max_batch_tokens=32, max_num_seqs=24)
    return [loaded_model.load(config) for _ in range(2)]


def use(path, loaded, runner, operations, config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pagecli.devices.cpu.device.ModelRunner", runner)
        pair = EnginePair(loaded, path, config)
        for name, argument in operations:
            getattr(pair, name)(argument)
        for _ in range(1000):
            pair.steps(1)
        assert not pair.unfinished
        assert pair.both[0]._kv.num_used_blocks == 0


def test_a_row_that_was_scored_keeps_no_later_ones_from_being_planned_as_one(tiny_model, loaded):
    pair = EnginePair(loaded, tiny_model("llama"), {"block_size": 4, "max_num_seqs": 6})
    pair.score([8, 9])
    pair.add([([5, 6, 7], {"prompt_logprobs": 1}, 3)])
    pair.steps(20)
    assert not pair.unfinished
    pair.add([([5, 6, 7], {}, 9), ([8], {}, 9)])
    pair.steps(5)
    assert [engine.scheduler._steady is None for engine in pair.both] == [False, True]


EXAMPLES = {"deadline": None, "suppress_health_check": list(HealthCheck)}
ANY_USE = given(st.lists(OPERATION, min_size=4, max_size=14), CONFIG)


@pytest.mark.parametrize("runner", [ModelRunner, AsynchronousRunner])
def test_outputs_counts_and_memory_are_those_of_an_engine_that_keeps_nothing(tiny_model, loaded, runner):
    CheckedInputs.num_kept = 0
    check = settings(**EXAMPLES, max_examples=10)
    check(ANY_USE(lambda operations, config: use(tiny_model("llama"), loaded, runner, operations, config)))()
    assert CheckedInputs.num_kept > 20


@pytest.mark.slow
@pytest.mark.parametrize("runner", [ModelRunner, AsynchronousRunner])
def test_the_same_of_hundreds_of_runs(tiny_model, loaded, runner):
    check = settings(**EXAMPLES, max_examples=share(1000))
    check(ANY_USE(lambda operations, config: use(tiny_model("llama"), loaded, runner, operations, config)))()
