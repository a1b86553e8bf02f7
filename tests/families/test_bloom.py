"""BLOOM: ALiBi, for heads that are and are not a power of two, and a norm of the embeddings."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "Bloom",
        {
            "n_layer": 4,
            "n_head": 4,
            "num_hidden_layers": None,
            "num_attention_heads": None,
            "num_key_value_heads": None,
            "max_position_embeddings": None,
            "intermediate_size": None,
        },
        {"heads": {"n_head": 8}, "six heads": {"n_head": 6, "hidden_size": 96}},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
