"""GPT-J: rotated pairs side by side in a part of each head, a head with a bias."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "GPTJ",
        {
            "n_embd": 64,
            "n_layer": 4,
            "n_head": 2,
            "n_positions": 128,
            "hidden_size": None,
            "num_hidden_layers": None,
            "num_attention_heads": None,
            "num_key_value_heads": None,
            "max_position_embeddings": None,
            "intermediate_size": None,
            "rotary_dim": 16,
        },
        {"rotated": {"rotary_dim": 32}, "inner": {"n_inner": 80}},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
