"""Gemma 1 to 3: offsets of norms, scales, windows, soft caps, two thetas; the text model inside another."""

import json

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "Gemma",
        {"head_dim": 16},
        {
            "biases": {"attention_bias": True},
            "activation": {"hidden_act": "relu"},
            "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
            "head": {"tie_word_embeddings": False},
        },
    ),
    Family(
        "Gemma2",
        {
            "head_dim": 16,
            "sliding_window": 6,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        {
            "scale": {"query_pre_attn_scalar": 64},
            "cap": {"attn_logit_softcapping": 1.0},
            "no cap": {"attn_logit_softcapping": None},
            "no cap of logits": {"final_logit_softcapping": None},
            "window": {"sliding_window": 3},
            "layers": {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
        },
    ),
    Family(
        "Gemma3",
        {
            "head_dim": 16,
            "sliding_window": 6,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 2,
        },
        {
            "scale": {"query_pre_attn_scalar": 64},
            "cap of logits": {"final_logit_softcapping": 2.0},
            "thetas": {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                }
            },
        },
        config_class="Gemma3TextConfig",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)


def test_the_text_model_inside_one_of_images_is_the_same(tmp_path):
    """As the hub has it: keys under text_config, most left out, "language_model." in the names, an image encoder beside."""
    import torch
    from checkpoints import difference, found_logprobs
    from safetensors.torch import load_file, save_file

    from pagecli.model.registry import resolve_model

    FAMILIES[2].make(tmp_path, {})
    expected = found_logprobs(resolve_model(str(tmp_path)), "reference")
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = load_file(tmp_path / "model.safetensors")
    wrapped = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config, "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(wrapped | {"eos_token_id": [1, 106]}))
    for prefix in ("language_model.model.", "model.language_model."):
        inside = {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
        save_file(inside | {"vision_tower.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
        source = resolve_model(str(tmp_path))
        assert difference(found_logprobs(source, "reference"), expected) == 0


def test_rope_is_read_as_files_before_transformers_5_write_it():
    from pagecli.core.model_config import RopeConfig
    from pagecli.model.readers.hf_config import from_hf_config

    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    config = from_hf_config({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}, "gemma-3-4b-it")
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (8, 4, 256, 262208)
    assert config.layer_windows[:6] == (1024,) * 5 + (0,)
    assert config.rope_of(0) == RopeConfig(10000.0, 256)
    assert config.rope_of(5) == RopeConfig(1e6, 256, "linear", 8.0)
