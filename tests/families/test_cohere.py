"""Command R: one norm, pairs side by side, scaled logits; windows with layers that rotate nothing."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family("Cohere", {}, {"logits": {"logit_scale": 1.0}, "biases": {"attention_bias": True}}),
    Family(
        "Cohere2",
        {"sliding_window": 6},
        {"window": {"sliding_window": 3}, "layers": {"layer_types": ["full_attention", "sliding_attention"] * 2}},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
