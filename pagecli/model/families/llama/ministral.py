"""Ministral (8B of 2024): Mistral with windows in the layers that layer_types names."""

from dataclasses import replace

from pagecli.model.families.llama.llama import MISTRAL

MINISTRAL = replace(MISTRAL, architectures=("MinistralForCausalLM",), model_type="ministral")
