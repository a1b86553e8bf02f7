"""Falcon: of the first generation (RW), 7B, 40B and 11B."""

import pytest
import torch
from checkpoints import LOGPROB_TOLERANCE, PROMPTS, Family, check_family, difference, found_logprobs

from pagecli.model.registry import resolve_model

_NEW = {"new_decoder_architecture": True, "num_kv_heads": 2}
FAMILIES = [
    Family(
        "Falcon",
        {"intermediate_size": None, "num_key_value_heads": None},
        {
            "a KV head for each": {"multi_query": False},
            "40B": _NEW,
            "11B, one norm": _NEW | {"num_ln_in_parallel_attn": 1},
            "one by one": {"parallel_attn": False},
            "biases": {"bias": True},
            "size": {"ffn_hidden_size": 96},
            "activation": {"activation": "relu"},
            "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
            "head": {"tie_word_embeddings": False},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)


@pytest.mark.parametrize("changes", [{}, {"multi_query": False, "parallel_attn": False, "bias": True}], ids=["7B", "RW"])
def test_alibi(tmp_path, changes):
    """As transformers' SDPA has it: its eager attention adds the slopes twice. Slopes of 4 heads, which it rounds to bfloat16,
    are powers of two."""
    model = FAMILIES[0].make(tmp_path, {"alibi": True} | changes)
    model.config._attn_implementation = "sdpa"
    with torch.inference_mode():
        expected = {i: model(torch.tensor([tokens])).logits[0].log_softmax(-1) for i, tokens in PROMPTS.items()}
    for device in ("reference", "cpu"):
        assert difference(found_logprobs(resolve_model(str(tmp_path)), device), expected) <= LOGPROB_TOLERANCE
