"""LoRA adapters of texts that are scored and embedded: as the model that PEFT merges has them, and without an adapter to the
bit as without any; a request that starts again after a failed step keeps its adapter."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_adapters import PARTS, run
from test_same_text import make_engine
from test_scoring import expected_logprobs
from test_text_embeddings import SETTINGS, prompts
from tiny_adapters import merged_model, save_adapter

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices import memory
from pagecli.engine import loaded_model
from pagecli.engine.embedding import EmbeddingEngine
from pagecli.errors import RowError
from pagecli.model.pooling import Pooling
from pagecli.model.registry import resolve_engine_model

NAMES = ("large", "small", None, "")


@pytest.fixture(scope="module")
def loras(tiny_model, tmp_path_factory):
    root, kinds = tmp_path_factory.mktemp("adapters"), ("large", "small")
    return tuple(
        (kind, str(save_adapter(tiny_model("llama"), root / kind, seed, **settings)))
        for seed, (kind, settings) in enumerate(zip(kinds, PARTS["llama"], strict=True), 1)
    )


def scored(engine, names):
    """The scores of two choices behind a prompt that all requests share, each with its adapter."""
    for i, name in enumerate(names):
        engine.add_score_request(i, list(range(5, 45)), [[7, 8, 9], [i + 10]], lora=name)
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output for output in engine.step()}
    engine.close()
    return [[[token.logprob for token in each.token_scores] for each in done[i].sequences] for i in range(len(names))]


def test_scores_are_those_of_the_merged_models(tiny_model, loras):
    path, names = tiny_model("llama"), [NAMES[i % 4] for i in range(12)]
    found = scored(make_engine(path, loras=loras), names)
    models = {name: merged_model(path, directory) for name, directory in loras}
    for i, name in enumerate(names):
        if name:
            for choice, logprobs in zip([[7, 8, 9], [i + 10]], found[i], strict=True):
                expected = expected_logprobs(models[name], [*range(5, 45), *choice])[39:]
                expected = expected[torch.arange(len(choice)), torch.tensor(choice)]
                torch.testing.assert_close(torch.tensor(logprobs).double(), expected, rtol=0, atol=1e-4)
    plain = scored(make_engine(path), [None] * 12)
    assert [row == other for row, other in zip(found, plain, strict=True)] == [not name for name in names]
    assert scored(make_engine(path, loras=loras, max_num_seqs=2, max_batch_tokens=16, prefix_caching=False), names) == found


def embedded(engine, texts, names):
    for i, (token_ids, name) in enumerate(zip(texts, names, strict=True)):
        engine.add_request(i, token_ids, SamplingParams(lora=name))
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output.sequences[0].embedding for output in engine.step()}
    return np.array([done[i] for i in range(len(texts))], dtype=np.float32)


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_embeddings_are_those_of_the_merged_models(tiny_model, loras, mode):
    texts = prompts(12)
    names = [NAMES[i % 4] for i in range(12)]
    config = EngineConfig(str(tiny_model("llama")), **SETTINGS, loras=loras)
    found = embedded(EmbeddingEngine(config, Pooling(mode)), texts, names)
    models = {name: merged_model(tiny_model("llama"), directory).model for name, directory in loras}
    for row, token_ids, name in zip(found, texts, names, strict=True):
        if name:
            with torch.inference_mode():
                states = models[name](torch.tensor([token_ids])).last_hidden_state[0]
            pooled = torch.nn.functional.normalize(states[-1] if mode == "last" else states.mean(0), dim=0)
            assert np.abs(row - pooled.numpy()).max() < 1e-4
    plain = embedded(EmbeddingEngine(EngineConfig(str(tiny_model("llama")), **SETTINGS), Pooling(mode)), texts, [None] * 12)
    assert [np.array_equal(*pair) for pair in zip(found, plain, strict=True)] == [not name for name in names]


def test_an_unknown_name_is_the_rows_error(tiny_model, loras):
    engine, config = make_engine(tiny_model("llama")), EngineConfig(str(tiny_model("llama")), **SETTINGS, loras=loras)
    with pytest.raises(RowError, match="lora is 'huge', which no --lora names"):
        engine.add_score_request(0, [1, 2], [[3]], lora="huge")
    with pytest.raises(RowError, match="lora is 'huge', which no --lora names"):
        EmbeddingEngine(config, Pooling("mean")).add_request(0, [1, 2], SamplingParams(lora="huge"))


def test_the_weights_of_a_plan_count_the_adapters(tiny_model, loras):
    config = EngineConfig(str(tiny_model("llama")), dtype="float32", loras=loras)
    plain = dataclasses.replace(config, loras=())
    elements = sum(
        tensor.numel() for _, path in loras for tensor in load_file(Path(path) / "adapter_model.safetensors").values()
    )
    planned, without = (memory.weight_bytes_of(resolve_engine_model(each), 4) for each in (config, plain))
    assert planned - without == 4 * elements
    loaded, bare = (loaded_model.load(each).model.weight_bytes for each in (config, plain))
    assert 0 <= loaded - bare - 4 * elements < 4 * 3 * 100  # and where each adapter's ranks begin


def test_requests_that_start_again_after_a_failed_step_keep_their_adapters(tiny_model, loras, monkeypatch):
    rows = [([5 + i, 9, 7], SamplingParams(max_tokens=6, ignore_eos=True)) for i in range(6)]
    names = [NAMES[i % 3] for i in range(6)]
    expected = run(make_engine(tiny_model("llama"), loras=loras), rows, names)
    engine = make_engine(tiny_model("llama"), loras=loras)
    launch, failures = engine._runner.launch, [MemoryError("once")]

    def failing(plan):
        if failures and any(chunk.start > 5 for chunk in plan.chunks):
            raise failures.pop()
        return launch(plan)

    monkeypatch.setattr(engine._runner, "launch", failing)
    assert run(engine, rows, names) == expected
    assert not failures
