"""Every family that llama.cpp converts computes the same out of its GGUF file as out of its checkpoint."""

import importlib
from pathlib import Path

import pytest
from checkpoints import Family, difference, expected_logprobs, found_logprobs
from gguf_writer import Layout, by_kind, experts_apart, gates_apart, interleaved, norms_plus_one, transposed, write_gguf
from tiny_adapters import merged_model, save_adapter

from pagecli.model.registry import resolve_model, with_adapters

_PARALLEL = {"use_parallel_residual": "use_parallel_residual"}
_CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
_SLIDES = {"attention.sliding_window": "sliding_window"}
_COHERE = {"logit_scale": "logit_scale"}
_GRANITE = {
    "embedding_scale": "embedding_multiplier", "attention.scale": "attention_multiplier",
    "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
}  # fmt: skip
# Family of transformers -> its layout there, and what its tiny model has beside the usual.
LAYOUTS = {
    "Gemma": (Layout("gemma", changes=(norms_plus_one,)), {}),
    "Gemma2": (Layout("gemma2", _CAPS | _SLIDES, (norms_plus_one,)), {"attn_logit_softcapping": 1.0}),
    "Gemma3": (Layout("gemma3", _SLIDES, (norms_plus_one,)), {"num_hidden_layers": 6, "layer_types": None}),
    "Phi": (Layout("phi2"), {}),
    "Phi3": (Layout("phi3", _SLIDES), {}),
    "Granite": (Layout("granite", _GRANITE, (interleaved,)), {"residual_multiplier": 0.5}),
    "SmolLM3": (Layout("smollm3", changes=(interleaved,)), {}),
    "Starcoder2": (Layout("starcoder2"), {}),
    "StableLm": (Layout("stablelm", _PARALLEL), {"use_parallel_residual": True}),
    "GPT2": (Layout("gpt2", changes=(transposed,)), {}),
    "GPTNeoX": (Layout("gptneox", _PARALLEL, (by_kind,)), {"use_parallel_residual": False}),
    "Bloom": (Layout("bloom", changes=(by_kind,)), {}),
    "Falcon": (Layout("falcon", changes=(by_kind,)), {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "Olmo": (Layout("olmo", changes=(interleaved,)), {}),
    "Olmo2": (Layout("olmo2"), {}),
    "Olmoe": (Layout("olmoe"), {}),
    "Cohere": (Layout("command-r", _COHERE), {}),
    "Cohere2": (Layout("cohere2", _COHERE | _SLIDES), {}),
    "Glm4": (Layout("glm4"), {}),
    "Nemotron": (Layout("nemotron", changes=(norms_plus_one,)), {}),
    "Arcee": (Layout("arcee", changes=(interleaved,)), {}),
    "Ernie4_5": (Layout("ernie4_5"), {}),
    "SeedOss": (Layout("seed_oss"), {}),
    "Mixtral": (Layout("llama", changes=(interleaved,)), {}),
    "Qwen2Moe": (Layout("qwen2moe"), {}),
    "GraniteMoe": (
        Layout("granitemoe", _GRANITE, (interleaved,), gates_apart),
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
    ),
    "GptOss": (Layout("gpt-oss", _SLIDES | {"expert_feed_forward_length": "intermediate_size"}, (), experts_apart), {}),
    "Exaone4": (
        Layout("exaone4", _SLIDES | {"attention.sliding_window_pattern": "layer_types"}),
        {"layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "HunYuanDenseV1": (Layout("hunyuan-dense"), {}),
    "Qwen3Moe": (Layout("qwen3moe"), {"norm_topk_prob": True}),
}
TINY: dict[str, Family] = {
    family.name: family
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if path.stem not in ("test_table", "test_gguf_layouts", "test_quantized_mixtures")
    for family in getattr(importlib.import_module(path.stem), "FAMILIES", [])
}


# The quick tests: one family of each way in which a layout changes weights; of those that turn Q's and K's rows, for adapters.
QUICK = {"Gemma", "GPT2", "GPTNeoX", "Falcon", "Olmo", "GraniteMoe", "GptOss", "Qwen2Moe"}
TURNED = {"GPT2", "Falcon", "Olmo"}


def families(quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in LAYOUTS]


@pytest.mark.parametrize("name", families(QUICK))
def test_a_gguf_file_computes_what_its_checkpoint_does(tmp_path, name):
    layout, changes = LAYOUTS[name]
    family = TINY[name]
    model = family.make(tmp_path / "checkpoint", changes)
    model.name_or_path = str(tmp_path / "checkpoint")
    source = resolve_model(str(write_gguf(tmp_path / "tiny.gguf", model, layout)))
    assert source.config.architecture == (family.model_class or f"{name}ForCausalLM")
    expected, found = expected_logprobs(model), found_logprobs(source, "cpu")
    assert difference(found, expected) <= 2e-5
    assert all((found[i].argmax(-1) == expected[i].argmax(-1)).all() for i in expected)


@pytest.mark.parametrize("name", families(TURNED))
def test_adapters_go_beside_a_gguf_file_as_beside_its_checkpoint(tmp_path, name):
    """Adapters of Q, K, V and what comes out of attention, whose rows lie in a checkpoint's order, as PEFT merges them."""
    layout, changes = LAYOUTS[name]
    model = TINY[name].make(tmp_path / "checkpoint", changes)
    model.name_or_path = str(tmp_path / "checkpoint")
    path = write_gguf(tmp_path / "tiny.gguf", model, layout)
    kinds = ("Linear", "Conv1D", "BloomLinear", "FalconLinear")
    modules = {
        module.rpartition(".")[2]
        for module, part in model.named_modules()
        if type(part).__name__ in kinds and any(each in module for each in ("attn.", "attention."))
    }
    assert modules
    settings = {"r": 3, "target_modules": sorted(modules), "fan_in_fan_out": name == "GPT2"}
    adapter = save_adapter(tmp_path / "checkpoint", tmp_path / "adapter", **settings)
    expected = expected_logprobs(merged_model(tmp_path / "checkpoint", adapter))
    for base in (path, tmp_path / "checkpoint"):
        source = with_adapters(resolve_model(str(base)), None, (("one", str(adapter)),))
        for device in ("cpu", "reference"):
            assert difference(found_logprobs(source, device, adapter=0), expected) <= 1e-4, (base, device)
    assert difference(found_logprobs(source, "cpu"), expected) > 1e-2
