"""Phi-3 to 4: fused tensors, partial rotation, longrope within its original context, windows."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family(
        "Phi3",
        {},
        {
            "partial": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
            "window": {"sliding_window": 5},
            "longrope": {
                "max_position_embeddings": 256,
                "original_max_position_embeddings": 64,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "long_factor": [4.0] * 8,
                    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 2.0],
                },
            },
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)


def test_longrope_offers_the_context_that_its_short_factors_are_for(tmp_path):
    from pagecli.model.registry import resolve_model

    FAMILIES[0].make(tmp_path, FAMILIES[0].knobs["longrope"])
    assert resolve_model(str(tmp_path)).config.max_positions == 64
