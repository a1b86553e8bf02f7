"""benchmarks/roofline.py: what it counts is what the formulas say, and its table adds up."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import machine_peak
import roofline
from rich.console import Console
from timed_operations import keys_seen, timed

from pagecli.core.engine_config import EngineConfig
from pagecli.devices.cpu import kernels
from pagecli.engine.engine import Engine

LENGTHS = [(9, 12), (30, 5), (4, 20), (17, 1)]


@pytest.fixture(params=["opt", "llama"])
def engine(request, tiny_model):
    return Engine(EngineConfig(str(tiny_model(request.param)), dtype="float32", threads=1, prefix_caching=False, speculate=0))


def test_operations_are_those_of_the_formulas(engine):
    with timed(engine.loaded.model) as totals:
        roofline.generate(engine, LENGTHS)
    config = engine.model_config
    mlp_matrices = 2 if config.architecture == "OPTForCausalLM" else 3
    of_a_layer = config.hidden_size * (config.qkv_size + config.q_size + mlp_matrices * config.intermediate_size)
    tokens = sum(prompt + output - 1 for prompt, output in LENGTHS)  # the last token is not fed
    chosen = sum(output for _, output in LENGTHS)
    linear = 2 * (tokens * config.num_layers * of_a_layer + chosen * config.vocab_size * config.embedding_size)
    keys = sum(n * (n + 1) // 2 for n in (prompt + output - 1 for prompt, output in LENGTHS))
    attention = 4 * config.num_layers * keys * config.q_size
    assert sum(t.operations for name, t in totals.items() if name.startswith("linear")) == linear
    assert sum(t.operations for name, t in totals.items() if name.startswith("paged_attention")) == attention


def test_the_table_adds_up_and_the_operations_are_themselves_again(engine, monkeypatch):
    for name, value in (("SAMPLES", 3), ("PIECES", 8), ("READ_BYTES", 4 << 20)):
        monkeypatch.setattr(machine_peak, name, value)
    before = kernels.linear
    result = roofline.run(engine, LENGTHS, "float32", rounds=3)
    assert [r["share_of_roofline"] for r in result["rounds"]][1] == result["share_of_roofline"]
    assert kernels.linear is before
    assert sum(r["share"] for r in result["operations"]) + result["between_operations_share"] == pytest.approx(1)
    assert 0 < result["share_of_roofline"] < 1
    assert result["output_tokens"] == sum(output for _, output in LENGTHS)
    console = Console(record=True, width=140)
    roofline.show(console, "tiny", result)
    text = console.export_text()
    assert "head" in text
    assert "paged_attention decode" in text
    assert "% of the roofline" in text


def test_keys_seen_by_queries_of_chunks_and_windows():
    context_lens, query_start = np.array([5, 3]), np.array([0, 1, 4])
    assert keys_seen(context_lens, query_start) == 5 + (1 + 2 + 3)
    assert keys_seen(context_lens, query_start, window=2) == 2 + (1 + 2 + 2)
