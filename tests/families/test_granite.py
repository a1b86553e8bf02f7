"""Granite: multipliers of embeddings, additions, scores and logits."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "Granite",
        {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1},
        {
            "embedding": {"embedding_multiplier": 1.0},
            "logits": {"logits_scaling": 1.0},
            "residual": {"residual_multiplier": 1.0},
            "attention": {"attention_multiplier": 0.25},
            "biases": {"attention_bias": True, "mlp_bias": True},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
