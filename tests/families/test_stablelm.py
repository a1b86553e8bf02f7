"""StableLM: layer norms, partial rotation, one norm for attention and MLP or two."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "StableLm",
        {"hidden_size": 128, "num_attention_heads": 2},
        {
            "side by side": {"use_parallel_residual": True},
            "biases": {"use_qkv_bias": True},
            "partial": {"partial_rotary_factor": 0.5},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
