"""What a step does for each decoding sequence on the host, counted in calls of functions: counts that no machine changes."""

import sys
from collections import Counter

import pytest

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine

# For one more sequence: what its token changes, and now and then a block; of penalties, the lookup of its tokens. The rest
# is done in loops over the batch.
ASKED = {
    "greedy": {},
    "drawn": {"temperature": 0.8, "top_p": 0.9, "top_k": 20},
    "penalized": {"repetition_penalty": 1.1, "frequency_penalty": 0.2},
    "logprobs": {"logprobs": 3},
}
MOST_CALLS = {"greedy": 0.5, "drawn": 0.5, "penalized": 0.5, "logprobs": 0.5}


@pytest.fixture(scope="module")
def calls_in_step(tiny_model):
    """calls_in_step(num_sequences, params) -> calls of pagecli's functions, by name, in a step in which all of them decode"""
    config = EngineConfig(str(tiny_model("llama")), dtype="float32", kv_memory_bytes=1 << 20, block_size=16, max_num_seqs=64)
    loaded = loaded_model.load(config)

    def count(num_sequences, params):
        engine = Engine(config, loaded)
        for i in range(num_sequences):
            engine.add_request(i, [5 + i, 9, 11], params)
        for _ in range(3):
            engine.step()
        calls = Counter()

        def on_call(frame, event, argument):
            if event == "call" and "/pagecli/" in frame.f_code.co_filename:
                calls[frame.f_code.co_qualname] += 1

        sys.setprofile(on_call)
        try:
            engine.step()
        finally:
            sys.setprofile(None)
        return calls

    return count


@pytest.mark.parametrize(("kind", "asked"), ASKED.items())
def test_one_more_decoding_sequence_costs_a_handful_of_calls(calls_in_step, kind, asked):
    params = SamplingParams(max_tokens=12, ignore_eos=True, **asked)
    few, many = calls_in_step(8, params), calls_in_step(24, params)
    more = {name: (many[name] - few[name]) / 16 for name in many if many[name] != few[name]}
    assert sum(more.values()) <= MOST_CALLS[kind], more
