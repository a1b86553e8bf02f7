"""--merge-lora: a model with a LoRA adapter in its weights is the model that PEFT merges."""

import json

import pytest
import torch
from paged_steps import PagedSteps, relative_error
from safetensors.torch import load_file, save_file
from test_gguf import write_gguf
from tiny_adapters import merged_model, save_adapter
from tiny_models import make_tokenizer

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.base import load_model
from pagecli.engine import loaded_model
from pagecli.engine.embedding import EmbeddingEngine
from pagecli.errors import ModelError, UsageError
from pagecli.model.pooling import Pooling
from pagecli.model.registry import resolve_model, with_adapters

PROMPTS = {0: [5, 9, 300, 17], 1: list(range(40, 73))}
ATTENTION = ["q_proj", "k_proj", "v_proj"]
CASES = {
    "llama, every layer": ("llama", {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}),
    "opt, attention": ("opt", {"r": 4, "lora_alpha": 4, "target_modules": [*ATTENTION, "out_proj"]}),
    "qwen3, some layers": ("qwen3", {"r": 3, "target_modules": ["down_proj"], "layers_to_transform": [1]}),
    "qwen2, scaled by the root of the rank": ("qwen2", {"r": 16, "use_rslora": True, "target_modules": ATTENTION}),
    "mistral, ranks by name": (
        "mistral",
        {"r": 8, "target_modules": ATTENTION, "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_model_that_peft_merges(tiny_model, tmp_path, case):
    name, settings = CASES[case]
    adapter = save_adapter(tiny_model(name), tmp_path / "adapter", **settings)
    expected = merged_model(tiny_model(name), adapter)
    plain = load_model(resolve_model(str(tiny_model(name))), "float32", max_batch_tokens=64)
    model = load_model(with_adapters(resolve_model(str(tiny_model(name))), str(adapter)), "float32", max_batch_tokens=64)
    found, without = PagedSteps(model, torch.float32).step(PROMPTS), PagedSteps(plain, torch.float32).step(PROMPTS)
    with torch.inference_mode():
        for i, tokens in PROMPTS.items():
            logits = expected(torch.tensor([tokens])).logits[0]
            assert relative_error(found[i], logits) <= 1e-4
            assert relative_error(without[i], logits) > 1e-2


@pytest.mark.slow
def test_weights_that_lie_transposed_are_merged(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_embd=64, n_layer=2, n_head=2, n_positions=128))
    model.save_pretrained(tmp_path / "gpt2")
    make_tokenizer().save_pretrained(tmp_path / "gpt2")
    settings = {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    adapter = save_adapter(tmp_path / "gpt2", tmp_path / "adapter", **settings)
    expected = merged_model(tmp_path / "gpt2", adapter)
    loaded = load_model(with_adapters(resolve_model(str(tmp_path / "gpt2")), str(adapter)), "float32", max_batch_tokens=64)
    found = PagedSteps(loaded, torch.float32).step(PROMPTS)
    with torch.inference_mode():
        for i, tokens in PROMPTS.items():
            assert relative_error(found[i], expected(torch.tensor([tokens])).logits[0]) <= 1e-4


@pytest.mark.parametrize("merges", [True, False], ids=["--merge-lora", "--lora"])
@pytest.mark.parametrize("base", ["with its LM head", "without"])
def test_an_adapter_of_a_model_without_its_head_is_one_of_the_model(tiny_model, tmp_path, merges, base):
    """Names of its modules lack their first part, as those of the base do where it has no head."""
    import peft
    from transformers import AutoModel

    path = tiny_model("qwen3")
    if base == "without":
        path = tmp_path / "base"
        AutoModel.from_pretrained(tiny_model("qwen3"), dtype=torch.float32).save_pretrained(path)
        make_tokenizer().save_pretrained(path)
    headless = AutoModel.from_pretrained(path, dtype=torch.float32)
    adapted = peft.get_peft_model(headless, peft.LoraConfig(r=4, target_modules=["v_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.15)
    adapted.save_pretrained(tmp_path / "adapter")
    directory = str(tmp_path / "adapter")
    merged, beside = (directory, ()) if merges else (None, (("one", directory),))
    pooling, settings = Pooling("mean"), {"threads": 1, "dtype": "float32", "merge_lora": merged, "loras": beside}
    engine = EmbeddingEngine(EngineConfig(str(path), **settings), pooling)
    engine.add_request(0, PROMPTS[0], SamplingParams(lora=None if merges else "one"))
    (output,) = engine.step()
    with torch.inference_mode():
        states = adapted(torch.tensor([PROMPTS[0]])).last_hidden_state[0].mean(0)
    found = torch.tensor(output.sequences[0].embedding)
    torch.testing.assert_close(found, torch.nn.functional.normalize(states, dim=0), rtol=0, atol=1e-5)


def test_no_adapter_is_merged_into_a_gguf_file(tiny_model, tmp_path):
    source = resolve_model(str(write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")))
    with pytest.raises(ModelError, match="a GGUF file, which adapters are not merged into") as caught:
        with_adapters(source, "merged")
    assert caught.value.hint == "leave its weights as they are: --lora NAME=merged"
    with pytest.raises(ModelError, match="a GGUF file"):  # in a plan, too
        with_adapters(resolve_model(str(tmp_path / "tiny.gguf"), "dummy"), "merged")


REFUSED = {
    "another kind": ({"peft_type": "IA3"}, "an adapter of kind 'IA3'"),
    "DoRA": ({"use_dora": True}, "use_dora is True"),
    "biases": ({"bias": "all"}, "bias is 'all'"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "a wrong rank": ({"r": 5}, "has rank 4, its configuration says 5"),
    "no kind": ({"peft_type": None}, "an adapter of kind None"),
    "a scale in words": ({"lora_alpha": "16"}, "lora_alpha is '16', not as PEFT writes it"),
    "a scale that is none": ({"lora_alpha": float("nan")}, "lora_alpha is nan, not as PEFT writes it"),
    "a scale beyond floats": ({"lora_alpha": 10**400}, "lora_alpha is 1000.*, not as PEFT writes it"),
    "no scale": ({"lora_alpha": None}, "lora_alpha is None, not as PEFT writes it"),
    "a rank in a list": ({"r": [4]}, r"r is \[4\], not as PEFT writes it"),
    "patterns in a list": ({"rank_pattern": ["q_proj"]}, "rank_pattern is .*, not as PEFT writes it"),
    "a pattern's scale in words": ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern is .*, not as PEFT writes it"),
    "no regular expression": ({"alpha_pattern": {"(q_proj": 3}}, "alpha_pattern is .*, not as PEFT writes it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_lora_alone_does_not_say_is_refused_in_one_line(tiny_model, tmp_path, case):
    change, message = REFUSED[case]
    adapter = save_adapter(tiny_model("llama"), tmp_path / "adapter", r=4, target_modules=["q_proj"])
    config = json.loads((adapter / "adapter_config.json").read_text()) | change
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        load_model(with_adapters(resolve_model(str(tiny_model("llama"))), str(adapter)), "float32", max_batch_tokens=64)


def test_adapter_of_another_model_is_refused(tiny_model, tmp_path):
    adapter = save_adapter(tiny_model("llama"), tmp_path / "adapter", r=4, target_modules=["o_proj", "k_proj"])
    with pytest.raises(ModelError, match=r"changes model\.layers\..*, which .* does not have"):
        load_model(with_adapters(resolve_model(str(tiny_model("opt"))), str(adapter)), "float32", max_batch_tokens=64)


def test_weights_that_an_adapter_is_merged_into_cannot_stay_quantized(tiny_model, tmp_path):
    adapter = save_adapter(tiny_model("llama"), tmp_path / "adapter", r=4, target_modules=["q_proj"])
    config = EngineConfig(str(tiny_model("llama")), dtype="float32", merge_lora=str(adapter), quantization="keep")
    with pytest.raises(UsageError, match="--quantization keep with --merge-lora"):
        loaded_model.resolve(config)


def test_matrices_without_rows_are_refused(tiny_model, tmp_path):
    adapter = save_adapter(tiny_model("llama"), tmp_path / "adapter", r=4, target_modules=["q_proj"])
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 0, "lora_alpha": 1}))
    tensors = load_file(adapter / "adapter_model.safetensors")
    none = {name: value[:0] if "lora_A" in name else value[:, :0].contiguous() for name, value in tensors.items()}
    save_file(none, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="has no two matrices of one rank"):
        load_model(with_adapters(resolve_model(str(tiny_model("llama"))), str(adapter)), "float32", max_batch_tokens=64)


def test_a_directory_that_is_no_adapter_is_one_line(tiny_model, tmp_path):
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        with_adapters(resolve_model(str(tiny_model("llama"))), str(tmp_path))
    adapter = save_adapter(tiny_model("llama"), tmp_path / "adapter", r=4, target_modules=["q_proj"])
    (adapter / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        load_model(with_adapters(resolve_model(str(tiny_model("llama"))), str(adapter)), "float32", max_batch_tokens=64)
