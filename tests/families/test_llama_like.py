"""Ernie 4.5, Helium, Seed-OSS, Hunyuan: biases, pairs side by side, norms behind the rotation."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family("Ernie4_5", {"head_dim": 16}, {"biases": {"use_bias": True}}),
    Family("Helium", {"head_dim": 16}, {"biases": {"attention_bias": True, "mlp_bias": True}}),
    Family(
        "SeedOss",
        {"head_dim": 16},
        {"biases": {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}},
    ),
    Family(
        "HunYuanDenseV1",
        {"head_dim": 16},
        {
            "alpha": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "alpha": 50.0, "factor": 1.0}},
            "biases": {"attention_bias": True},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
