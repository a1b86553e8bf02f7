"""Falcon: attention and MLP side by side, one KV head or groups, one norm or two; the first ones (RW) in turn, with ALiBi."""

from dataclasses import replace
from typing import Any

from pagecli.model.decoder import Embedding, Gguf, Key, Rotary
from pagecli.model.families.gpt.bloom import BLOOM

_BIAS = Key("bias", False)
_ORDERS = ("pre", "parallel", "parallel_norms")


def _derived(config: dict[str, Any]) -> dict[str, Any]:
    is_new, neutral = bool(config.get("new_decoder_architecture")), ("new_decoder_architecture", "parallel_attn")
    num_kv_heads = config.get("num_key_value_heads") or config.get("num_kv_heads") or config.get("num_attention_heads")
    has_two_norms = is_new and (config.get("num_ln_in_parallel_attn") or 2) == 2
    is_parallel = is_new or config.get("parallel_attn", True)
    return {
        "num_key_value_heads": 1 if config.get("multi_query", True) and not is_new else num_kv_heads,
        "layer_order": "parallel_norms" if has_two_norms else "parallel" if is_parallel else "pre",
        **dict.fromkeys((*neutral, "rope_parameters") if config.get("alibi") else neutral),
    }


FALCON = replace(
    BLOOM,
    architectures=("FalconForCausalLM",),
    model_type="falcon",
    gguf=Gguf(name="falcon", implied=(("new_decoder_architecture", True),)),
    renamed=(("n_embed", "hidden_size"),),
    derived=_derived,
    embedding=Embedding(name="transformer.word_embeddings"),
    attention=replace(
        BLOOM.attention,
        parallel_norm="ln_attn",
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        rotary=Rotary(),
        alibi=Key("alibi", False),
        alibi_scaled=True,
        num_kv_heads=Key("num_key_value_heads"),
    ),
    mlp=replace(
        BLOOM.mlp,
        parallel_norm="ln_mlp",
        size=Key("ffn_hidden_size", None),
        activation=Key("activation", "gelu"),
        bias=_BIAS,
    ),
    order=Key("layer_order", values=tuple((order, order) for order in _ORDERS)),
    max_positions=Key("max_position_embeddings", 2048),
)
