"""Keys of config.json that change a model's text: one that is set and that no description has read is refused, not ignored.

What adds weights (biases, norms, experts) needs no entry: a tensor that is left over is refused too (weights/reader.py).
"""

from collections.abc import Collection, Mapping
from typing import Any

from pagecli.errors import ModelError

_OFF = (None, False, 0)
# Key: values that change nothing.
TEXT_KEYS: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": _OFF,
    "alibi": _OFF,
    "apply_residual_connection_post_layernorm": _OFF,
    "attention_chunk_size": _OFF,
    "attention_in_multiplier": (None, 1),
    "attention_multiplier": (None,),
    "attention_out_multiplier": (None, 1),
    "attn_logit_softcapping": _OFF,
    "attn_temperature_tuning": _OFF,
    "clip_qkv": _OFF,
    "dim_model_base": (None,),
    "embedding_multiplier": (None, 1),
    "final_logit_softcapping": _OFF,
    "key_multiplier": (None, 1),
    "layer_types": (None, []),
    "llama_4_scaling_beta": _OFF,
    "lm_head_multiplier": (None, 1),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "mup_width_multiplier": (None, 1),
    "mlp_multipliers": (None, []),
    "new_decoder_architecture": _OFF,
    "no_rope_layer_interval": _OFF,
    "no_rope_layers": (None, []),
    "parallel_attn": _OFF,
    "partial_rotary_factor": (None, 1),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (None, 1),
    "rope_interleave": _OFF,
    "rope_interleaved": _OFF,
    "rope_local_base_freq": (None,),
    "rope_parameters": (None, {}),
    "rope_scaling": (None, {}),
    "rotary_dim": (None,),
    "rotary_pct": (None, 1),
    "scale_attn_by_inverse_layer_idx": _OFF,
    "scale_attn_weights": (None, True),
    "scale_depth": (None,),
    "scale_emb": (None, 1),
    "qk_layernorm": _OFF,
    "sliding_window_pattern": (None,),
    "swiglu_limit": (None,),
    "use_bidirectional_attention": _OFF,
    "use_parallel_residual": _OFF,
    "use_qk_norm": _OFF,
    "use_sliding_window": _OFF,
    "xsa_layers": (None, []),
}


def check_read(config: Mapping[str, Any], read: Collection[str], architecture: str, where: str) -> None:
    """Raises ModelError naming the first key of the list that is set and was not read."""
    for name, neutral in TEXT_KEYS.items():
        if name in config and name not in read and config[name] not in neutral and not _plain(config[name]):
            raise ModelError(
                f"{where}: {name} is {config[name]!r}, which {architecture} is not computed with here",
                "the text would be another model's; a newer pagecli may know it",
            )


def _plain(value: Any) -> bool:
    """Whether a list says the same as one left out: every layer attends to everything."""
    return isinstance(value, list) and all(kind == "full_attention" for kind in value)
