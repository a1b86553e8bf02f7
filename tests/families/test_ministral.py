"""Ministral: windows in the layers that layer_types names."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "Ministral",
        {"head_dim": 16, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"] * 2},
        {"window": {"sliding_window": 9}, "layers": {"layer_types": ["full_attention"] * 4}},
    ),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
