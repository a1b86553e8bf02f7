"""The engine under other memory policies and ways of batching: a real model, the same tokens to the last log probability."""

import pytest
import torch

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.errors import UsageError

KINDS = (
    {},
    {"temperature": 1.2, "top_p": 0.8, "n": 3},
    {"temperature": 1.0, "top_k": 20, "best_of": 3, "n": 2},
    {"logprobs": 2, "temperature": 1.0},
)
SLOT_BYTES = 2 * 3 * 2 * 32 * 4


def outputs(path, **config):
    """(what came out of 12 rows, the engine's statistics)."""
    config = {"block_size": 4, "max_num_seqs": 16, "max_batch_tokens": 64, "check_integrity": True} | config
    engine = Engine(EngineConfig(str(path), dtype="float32", threads=1, kv_memory_bytes=1024 * SLOT_BYTES, **config))
    generator = torch.Generator().manual_seed(0)
    for i in range(12):
        prompt = torch.randint(3, 340, (3 + 5 * (i % 4),), generator=generator).tolist()
        engine.add_request(i, prompt, SamplingParams(max_tokens=4 + i % 7, **KINDS[i % len(KINDS)]))
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output.sequences for output in engine.step()}
    return [done[i] for i in range(12)], engine.stats()


@pytest.fixture(scope="module")
def path(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def expected(path):
    return outputs(path)[0]


@pytest.mark.parametrize(
    ("policy", "batching"),
    [
        ("reserve-max", "continuous"),
        ("reserve-pow2", "continuous"),
        ("reserve-oracle", "continuous"),
        ("reserve-max", "static"),
        ("paged", "static"),
        ("paged", "none"),
    ],
)
def test_rows_come_out_the_same(path, expected, policy, batching):
    found, stats = outputs(path, kv_policy=policy, batching=batching, max_model_len=64)
    assert found == expected
    assert stats["num_preemptions"] == 0
    if policy != "paged":
        assert stats["prefix_cache_hit_rate"] == stats["kv_sharing_saving"] == 0


def test_reservations_are_not_swapped():
    with pytest.raises(UsageError, match="kv_policy reserve-max never preempts"):
        EngineConfig("any", kv_policy="reserve-max", preemption="swap", swap_memory_bytes=1000)
