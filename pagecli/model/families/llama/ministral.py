"""Ministral (8B of 2024): Mistral with windows in the layers that layer_types names; Ministral 3: without, scaled by YaRN."""

from dataclasses import replace

from pagecli.model.decoder import Attention, Key, Rotary, Window
from pagecli.model.families.llama.llama import MISTRAL

MINISTRAL = replace(MISTRAL, architectures=("MinistralForCausalLM",), model_type="ministral")
MINISTRAL3 = replace(
    MISTRAL,
    architectures=("Ministral3ForCausalLM",),
    model_type="ministral3",
    attention=Attention(
        rotary=Rotary(theta=1e6, query_scale="llama_4_scaling_beta"),
        window=Window(size=Key("sliding_window", None)),
        head_dim=Key("head_dim", 128),
    ),
)
