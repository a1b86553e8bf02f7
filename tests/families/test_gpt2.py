"""GPT-2: learned positions, weights that lie as [inputs, outputs]."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "GPT2",
        {
            "n_embd": 64,
            "n_layer": 4,
            "n_head": 4,
            "n_positions": 128,
            "hidden_size": None,
            "num_hidden_layers": None,
            "num_attention_heads": None,
            "num_key_value_heads": None,
            "max_position_embeddings": None,
            "intermediate_size": None,
        },
        {"inner": {"n_inner": 80}, "activation": {"activation_function": "relu"}, "head": {"tie_word_embeddings": False}},
        model_class="GPT2LMHeadModel",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
