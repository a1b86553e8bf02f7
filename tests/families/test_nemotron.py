"""Nemotron and Arcee: squared ReLU, layer norms of weight + 1, a part of each head rotated."""

import pytest
from checkpoints import Family, check_family

_BIASES = {"biases": {"attention_bias": True, "mlp_bias": True}}
FAMILIES = [
    Family(
        "Nemotron",
        {"head_dim": 16},
        _BIASES
        | {
            "part": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
            "eps": {"norm_eps": 0.5},
            "activation": {"hidden_act": "gelu"},
            "tied": {"tie_word_embeddings": True},
        },
    ),
    Family("Arcee", {}, _BIASES | {"activation": {"hidden_act": "silu"}, "tied": {"tie_word_embeddings": True}}),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
