"""Phi-1 to 2: attention and MLP side by side, a part of each head rotated, a head with a bias."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "Phi", {"num_attention_heads": 2}, {"partial": {"partial_rotary_factor": 1.0}, "activation": {"hidden_act": "relu"}}
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
