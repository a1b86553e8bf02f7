"""Embeddings: transformers' states pooled, in any batch and any chunks the same, by the model's own configuration."""

import json

import numpy as np
import pytest
import torch

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.embedding import EmbeddingEngine
from pagecli.errors import ErrorCode, ModelError, RowError, UsageError
from pagecli.model.pooling import Pooling, read_pooling

MODELS = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "opt")
SETTINGS = {"threads": 1, "dtype": "float32", "max_batch_tokens": 64, "max_num_seqs": 8}


def prompts(count: int = 12, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [1, 2, 130, *(int(n) for n in torch.randint(1, 60, (count - 3,), generator=generator))]
    return [torch.randint(3, 340, (length,), generator=generator).tolist() for length in lengths]


def embeddings(engine: EmbeddingEngine, texts: list[list[int]]) -> np.ndarray:
    for i, token_ids in enumerate(texts):
        engine.add_request(i, token_ids, SamplingParams())
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output.sequences[0].embedding for output in engine.step()}
    return np.array([done[i] for i in range(len(texts))], dtype=np.float32)


def of_transformers(path, texts: list[list[int]], pooling: Pooling) -> np.ndarray:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    found = []
    for token_ids in texts:
        with torch.no_grad():
            states = model(torch.tensor([token_ids])).last_hidden_state[0]
        pooled = states[-1] if pooling.mode == "last" else states.mean(0)
        found.append(torch.nn.functional.normalize(pooled, dim=0) if pooling.normalize else pooled)
    return torch.stack(found).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["last", "mean"])
@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_transformers_states_pooled(tiny_model, name, mode):
    pooling = Pooling(mode)
    found = embeddings(EmbeddingEngine(EngineConfig(str(tiny_model(name)), **SETTINGS), pooling), prompts())
    assert np.abs(found - of_transformers(tiny_model(name), prompts(), pooling)).max() < 1e-5
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_without_normalization_states_are_as_large_as_they_are(tiny_model):
    pooling = Pooling("mean", normalize=False)
    found = embeddings(EmbeddingEngine(EngineConfig(str(tiny_model("qwen3")), **SETTINGS), pooling), prompts())
    expected = of_transformers(tiny_model("qwen3"), prompts(), pooling)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() > 0.1


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_a_texts_embedding_is_the_same_to_the_bit_in_any_batch(tiny_model, mode):
    def run(texts, **changes):
        config = EngineConfig(str(tiny_model("mistral")), **(SETTINGS | changes))
        return embeddings(EmbeddingEngine(config, Pooling(mode)), texts)

    texts = prompts(20)
    expected = run(texts)
    for changes in (
        {"max_num_seqs": 1},
        {"max_batch_tokens": 512},
        {"max_batch_tokens": 16},
        {"threads": 2},
        {"block_size": 1},
    ):
        assert np.array_equal(run(texts, **changes), expected), changes
    assert np.array_equal(run(texts[::-1])[::-1], expected)
    assert all(np.array_equal(run([text]), row[None]) for text, row in list(zip(texts, expected, strict=True))[:4])


def test_a_model_saved_without_its_lm_head_is_loaded(tiny_model, tmp_path):
    from transformers import AutoModel

    AutoModel.from_pretrained(tiny_model("qwen3"), dtype=torch.float32).save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((tiny_model("qwen3") / file).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen3Model"]
    pooling = Pooling("last")
    found = embeddings(EmbeddingEngine(EngineConfig(str(tmp_path), **SETTINGS), pooling), prompts(5))
    assert np.abs(found - of_transformers(tiny_model("qwen3"), prompts(5), pooling)).max() < 1e-5


def test_texts_that_cannot_be_embedded_are_refused_alone(tiny_model):
    engine = EmbeddingEngine(EngineConfig(str(tiny_model("llama")), max_model_len=20, **SETTINGS), Pooling("last"))
    for token_ids, code in (([], ErrorCode.EMPTY_PROMPT), ([5] * 21, ErrorCode.PROMPT_TOO_LONG)):
        with pytest.raises(RowError) as caught:
            engine.add_request(0, token_ids, SamplingParams())
        assert caught.value.code == code
    assert embeddings(engine, [[5] * 20]).shape == (1, 96)
    engine.add_request(7, [5, 6], SamplingParams())
    engine.abort(7)
    assert not engine.has_unfinished()


TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}


def write(folder, modules, config, more=None):
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    if more is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(more))


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False, "include_prompt": True}, "last"),
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 8}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_the_models_own_configuration_says_how(tmp_path, config, mode):
    more = {"prompts": {"query": "Query: ", "document": ""}, "default_prompt_name": "query"}
    write(tmp_path, [TRANSFORMER, POOLING, NORMALIZE], config, more)
    found = read_pooling(tmp_path)
    assert (found.mode, found.normalize) == (mode, True)
    assert (found.prefix(None), found.prefix("document"), found.prefix("query")) == ("Query: ", "", "Query: ")
    with pytest.raises(UsageError, match=r"--prompt-name is 'passage'.*does not have") as caught:
        found.prefix("passage")
    assert caught.value.hint == "it has document, query"
    assert read_pooling(tmp_path, "last", normalize=False).normalize is False


@pytest.mark.parametrize(
    ("modules", "config", "says"),
    [
        ([TRANSFORMER, POOLING, DENSE], {"pooling_mode": "mean"}, "module Dense"),
        ([TRANSFORMER], {}, "no pooling"),
        ([TRANSFORMER, POOLING], {"pooling_mode_cls_token": True}, "pooling cls_token is not supported"),
        ([TRANSFORMER, POOLING], {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, "and"),
        ([TRANSFORMER, POOLING], {"pooling_mode_mean_tokens": True, "include_prompt": False}, "include_prompt is false"),
        ({}, {}, "no pooling"),
    ],
)
def test_what_would_change_an_embedding_and_is_not_known_is_refused(tmp_path, modules, config, says):
    write(tmp_path, modules, config)
    with pytest.raises(ModelError, match=says):
        read_pooling(tmp_path)


def test_a_model_that_does_not_say_needs_a_flag(tmp_path):
    with pytest.raises(ModelError, match=r"has no modules\.json") as caught:
        read_pooling(tmp_path)
    assert caught.value.hint == "give --pooling last or mean"
    assert read_pooling(tmp_path, "mean") == Pooling("mean")
