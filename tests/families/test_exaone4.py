"""EXAONE 4: norms of outputs and heads, windows with layers that rotate nothing."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "Exaone4",
        {"head_dim": 16, "sliding_window": 6},
        {"no windows": {"sliding_window": None, "layer_types": ["full_attention"] * 4}, "window": {"sliding_window": 3}},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
