"""Mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, Granite-MoE, gpt-oss."""

import json

import pytest
import torch
from checkpoints import PROMPTS, SHARED, Family, check_family, found_logprobs
from model.paged_steps import PagedSteps

from pagecli.devices.base import load_model
from pagecli.devices.limits import check_computed
from pagecli.errors import ModelError
from pagecli.model.build_program import build
from pagecli.model.presets import find_preset
from pagecli.model.readers.hf_config import from_hf_config
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.roofline import StepTime

_FEW = {"num_local_experts": 8, "num_experts_per_tok": 2}
_MANY = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
_TIED = {"tie_word_embeddings": True}
FAMILIES = [
    Family("Mixtral", _FEW, {"window": {"sliding_window": 5}, "four": {"num_experts_per_tok": 4}, "tied": _TIED}),
    Family(
        "Qwen2Moe",
        _MANY | {"shared_expert_intermediate_size": 56},
        {
            "normalized": {"norm_topk_prob": True},
            "no biases": {"qkv_bias": False},
            "every other layer": {"decoder_sparse_step": 2},
            "dense layers": {"mlp_only_layers": [0, 3]},
            "window": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
            "shared": {"shared_expert_intermediate_size": 24},
        },
    ),
    Family(
        "Qwen3Moe",
        _MANY | {"head_dim": 16},
        {
            "normalized": {"norm_topk_prob": True},
            "biases": {"attention_bias": True},
            "every third layer": {"decoder_sparse_step": 3},
            "dense layers": {"mlp_only_layers": [1]},
            "one": {"num_experts_per_tok": 1},
            "window": {"use_sliding_window": True, "sliding_window": 5},
        },
    ),
    Family(
        "Olmoe",
        {"num_experts": 8, "num_experts_per_tok": 3},
        {"normalized": {"norm_topk_prob": True}, "biases": {"attention_bias": True}, "activation": {"hidden_act": "gelu"}},
    ),
    Family(
        "GraniteMoe",
        _FEW,
        {
            "embedding": {"embedding_multiplier": 3.0},
            "scores": {"attention_multiplier": 0.4},
            "additions": {"residual_multiplier": 0.3},
            "logits": {"logits_scaling": 4.0},
            "biases": {"attention_bias": True},
        },
    ),
    Family(
        "GptOss",
        _FEW | {"head_dim": 16, "sliding_window": 5},
        {
            "no biases": {"attention_bias": False},
            "window": {"sliding_window": 3},
            "layers": {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
            "limit": {"swiglu_limit": 0.2},
            "alpha": {"swiglu_alpha": 0.7},
            "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int8-a16"])
def test_a_rows_bits_are_the_same_in_any_batch(tmp_path, dtype):
    FAMILIES[1].make(tmp_path, {})
    source = resolve_model(str(tmp_path))
    mixed, model = found_logprobs(source, "cpu", dtype), load_model(source, dtype, 64, "cpu")
    for i, tokens in PROMPTS.items():
        alone = PagedSteps(model).step({i: tokens})[i].log_softmax(-1)
        assert torch.equal(alone, mixed[i])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 513}, r"513 experts \(up to 512 are\)"),
        ({"num_experts": 40, "num_experts_per_tok": 33}, r"33 experts for a token \(up to 32 are\)"),
        ({"moe_intermediate_size": 44}, r"experts of 64 by 44 weights \(multiples of 8 are\)"),
    ],
)
def test_gpus_refuse_what_their_kernels_do_not_take_in_one_line(changes, message):
    from transformers import Qwen3MoeConfig

    def config(changes):
        sizes = Qwen3MoeConfig(**(SHARED | FAMILIES[2].sizes | changes)).to_dict()
        return from_hf_config(sizes | {"architectures": ["Qwen3MoeForCausalLM"]}, "config.json")

    check_computed("cuda", "tiny", config({}))
    with pytest.raises(ModelError, match=f"tiny: GPUs have no {message} here yet"):
        check_computed("cuda", "tiny", config(changes))


def test_a_token_reads_and_multiplies_its_own_experts_alone(tmp_path):
    """The plan's step times: Qwen3-30B-A3B decodes one row as a model of its 3.35 billion active parameters would, many rows as
    one of all its experts' bytes."""
    preset = find_preset("qwen3-30b-a3b")
    config, device = from_hf_config(preset.config, preset.name), find_gpu("h200")
    embeddings, bandwidth = config.vocab_size * config.hidden_size, device.bandwidth * 0.9
    one, many = (StepTime(config, device).seconds(rows, rows, 0) * bandwidth / 2 for rows in (1, 4096))
    assert one == pytest.approx(3.35e9 - embeddings, rel=0.01)
    assert many > 30.5e9 - embeddings
    program = build(config)
    assert program.num_parameters - program.num_expert_parameters == pytest.approx(1.54e9, rel=0.01)


def test_more_experts_a_token_than_there_are_is_refused_by_name(tmp_path):
    FAMILIES[0].make(tmp_path, {})
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_experts_per_tok": 9}
    with pytest.raises(ModelError, match="num_experts_per_tok is 9, of 8 experts"):
        from_hf_config(config, "config.json")
