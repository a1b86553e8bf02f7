"""The engine on an int8 KV cache: its size, texts that depend on nothing beside a row, how close it stays to float32."""

import pytest

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.errors import UsageError

SLOT_BYTES = {"llama": 2 * 3 * 2 * (32 + 4), "opt": 2 * 2 * 2 * (32 + 4)}  # K and V, layers, KV heads, head size and scale
KINDS = (
    SamplingParams(max_tokens=12, ignore_eos=True),
    SamplingParams(max_tokens=17, temperature=1.0, n=3, ignore_eos=True),
    SamplingParams(max_tokens=9, beam_width=3, n=2),
    SamplingParams(max_tokens=14, temperature=0.8, seed=3, logprobs=2),
)
SETTINGS = {
    "small batches": {"max_num_seqs": 4},
    "swapping": {"num_slots": 160, "block_size": 8, "preemption": "swap", "swap_slots": 512},
    "computing again": {"num_slots": 160, "block_size": 8},
    "chunks of 16": {"max_num_seqs": 16, "max_batch_tokens": 16},
    "2 threads": {"threads": 2},
    "blocks of 1": {"block_size": 1, "prefix_caching": False},
}


def make_engine(path, num_slots=4096, swap_slots=0, kv_dtype="int8", **config):
    each = SLOT_BYTES[path.name]
    settings = {"dtype": "float32", "threads": 1, "max_num_seqs": 32, "check_integrity": True} | config
    sizes = {"kv_memory_bytes": num_slots * each, "swap_memory_bytes": swap_slots * each}
    return Engine(EngineConfig(str(path), kv_dtype=kv_dtype, **sizes, **settings))


def prompts(count):
    """Every third begins with the same 20 tokens, so that blocks are shared."""
    own = [[3 + (i * 37 + j * 11) % 330 for j in range(5 + i * 7 % 30)] for i in range(count)]
    return [list(range(5, 25)) + ids if i % 3 == 0 else ids for i, ids in enumerate(own)]


def outputs(engine, count=12):
    for i, prompt in enumerate(prompts(count)):
        engine.add_request(i, prompt, KINDS[i % len(KINDS)])
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output.sequences for output in engine.step()}
    return [done[i] for i in range(count)]


@pytest.fixture(scope="module", params=["llama", "opt"])
def path(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def together(path):
    return outputs(make_engine(path))


def test_a_token_takes_a_byte_a_number_and_four_for_each_scale(path):
    engine = make_engine(path, num_slots=64, block_size=16)
    stats = engine.stats()
    assert (stats["kv_dtype"], stats["kv_bytes_per_token"], stats["kv_blocks_total"]) == ("int8", SLOT_BYTES[path.name], 4)
    cache = engine._runner.kv_cache
    assert sum(tensor.nbytes for tensor in cache.keys + cache.values) == 64 * SLOT_BYTES[path.name]


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_come_out_the_same_whatever_runs_beside_them(path, together, name):
    engine = make_engine(path, **SETTINGS[name])
    assert outputs(engine) == together
    stats = engine.stats()
    assert stats["num_copy_on_write"] > 0 or name == "blocks of 1"
    assert (stats["num_preemptions"] > 0) == (name in ("swapping", "computing again"))
    assert (stats["num_swapped_blocks"] > 0) == (name == "swapping")


def test_rows_come_out_the_same_alone(path, together):
    engine = make_engine(path)
    for i, prompt in enumerate(prompts(12)):
        engine.add_request(i, prompt, KINDS[i % len(KINDS)])
        alone = []
        while engine.has_unfinished():
            alone += engine.step()
        assert alone[0].sequences == together[i]


def first_logprobs(path, kv_dtype):
    """Of the 5 likeliest tokens after each prompt."""
    engine = make_engine(path, kv_dtype=kv_dtype, max_batch_tokens=32)
    for i, prompt in enumerate(prompts(6)):
        engine.add_request(i, prompt, SamplingParams(max_tokens=1, logprobs=5))
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output.sequences[0].logprobs[0] for output in engine.step()}
    return [sorted(dict(done[i].top).values()) for i in range(6)]


def test_log_probabilities_stay_close_to_those_of_a_float32_cache(path):
    exact, bfloat16, int8 = (first_logprobs(path, kv_dtype) for kv_dtype in ("float32", "bfloat16", "int8"))
    for other in (bfloat16, int8):
        off = [abs(a - b) for x, y in zip(exact, other, strict=True) for a, b in zip(x, y, strict=True)]
        assert 0 < max(off) < 0.05


def test_a_gpu_has_none():
    with pytest.raises(UsageError, match="--kv-dtype int8 is for the CPU") as error:
        EngineConfig("opt-125m", device="cuda", kv_dtype="int8")
    assert "--device cpu" in error.value.hint


def test_an_unknown_one_is_refused_before_anything_is_loaded():
    with pytest.raises(UsageError, match="KV cache dtype 'int4' is unknown"):
        Engine(EngineConfig("opt-125m", load_format="dummy", kv_dtype="int4"))
