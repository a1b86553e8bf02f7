"""Ministral: windows in the layers that layer_types names; 3: YaRN, and queries that are scaled beyond the original context."""

import pytest
from checkpoints import Family, check_family

_YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 48, "mscale": 1.0,
    "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
FAMILIES = [
    Family(
        "Ministral",
        {"head_dim": 16, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"] * 2},
        {"window": {"sliding_window": 9}, "layers": {"layer_types": ["full_attention"] * 4}},
    ),
    Family(
        "Ministral3",
        {"head_dim": 16, "rope_parameters": _YARN},
        {
            "window": {"sliding_window": 9},
            "factor": {"rope_parameters": _YARN | {"factor": 2.0}},
            "attention": {"rope_parameters": _YARN | {"mscale": 0.5}},
            "tied": {"tie_word_embeddings": True},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)


def test_contexts_in_which_queries_are_scaled_are_not_offered(tmp_path):
    from pagecli.model.registry import resolve_model

    FAMILIES[1].make(tmp_path, {})
    assert resolve_model(str(tmp_path)).config.max_positions == 48
