"""GLM-4: half of each head rotated, fused gate-up, norms on both sides."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family("Glm", {"head_dim": 32}, {"no biases": {"attention_bias": False}}),
    Family(
        "Glm4",
        {"head_dim": 32},
        {"partial": {"partial_rotary_factor": 1.0}, "no biases": {"attention_bias": False}},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
