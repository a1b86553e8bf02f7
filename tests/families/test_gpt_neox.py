"""GPT-NeoX: rows of Q, K and V head by head, two norms side by side or one after the other."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "GPTNeoX",
        {"num_key_value_heads": None, "num_attention_heads": 2, "hidden_size": 128},
        {
            "one after the other": {"use_parallel_residual": False},
            "partial": {"rotary_pct": 0.5},
            "theta": {"rotary_emb_base": 100},
            "no biases": {"attention_bias": False},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
