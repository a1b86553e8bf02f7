"""OLMo 1 to 3: norms without weights, norms of outputs, norms of all heads together, YaRN of full layers alone."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family("Olmo", {}, {"biases": {"attention_bias": True}, "KV heads": {"num_key_value_heads": 4}}),
    Family("Olmo2", {}, {"biases": {"attention_bias": True}}),
    Family(
        "Olmo3",
        {"sliding_window": 6},
        {
            "yarn": {
                "rope_parameters": {
                    "full_attention": {
                        "rope_type": "yarn",
                        "rope_theta": 100.0,
                        "factor": 4.0,
                        "original_max_position_embeddings": 32,
                    },
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                }
            },
            "window": {"sliding_window": 3},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)


def test_clipped_queries_and_keys_are_refused_by_name(tmp_path):
    from pagecli.errors import ModelError
    from pagecli.model.registry import resolve_model

    FAMILIES[0].make(tmp_path, {"clip_qkv": 8.0})
    with pytest.raises(ModelError, match=r"clip_qkv is 8\.0"):
        resolve_model(str(tmp_path))
