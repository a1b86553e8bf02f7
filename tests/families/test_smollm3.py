"""SmolLM3: layers that rotate nothing, YaRN."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "SmolLM3",
        {},
        {
            "listed layers": {"no_rope_layers": [0, 1, 1, 1]},
            "interval": {"no_rope_layer_interval": 2},
            "biases": {"attention_bias": True, "mlp_bias": True},
            "yarn": {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 100.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
