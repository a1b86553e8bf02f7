"""ModelConfig from the metadata of a GGUF file (keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md).

The metadata become a config by the names of config.json, which is read as one; what only the tensors say (biases, a head of its
own) is set behind that.
"""

from dataclasses import replace
from typing import Any

from pagecli.core.model_config import ModelConfig
from pagecli.errors import ModelError, short_repr
from pagecli.model import families
from pagecli.model.decoder import Decoder, Gguf, Key
from pagecli.model.readers.config_fields import Fields, token_id_tuple
from pagecli.model.readers.gguf_header import GgufHeader, single
from pagecli.model.readers.hf_config import read_config, renamed

_SCALINGS = ("none", "linear", "yarn")


def from_gguf_header(header: GgufHeader) -> ModelConfig:
    """Raises ModelError for an architecture, mixture of experts or rope scaling that pagecli does not support."""
    where, architecture = header.path, header.architecture
    has_experts = bool(header.get("expert_count", 0))
    decoder = families.find_gguf(architecture, has_experts)
    if decoder is None or decoder.gguf is None:
        supported, kind = ", ".join(families.gguf_names()), " with experts" if has_experts else ""
        raise ModelError(
            f"{where}: GGUF architecture {short_repr(architecture)}{kind} is not supported", f"supported: {supported}"
        )
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{where}: no tensor token_embd.weight", "is the file complete?")
    written = _as_config(header, decoder, decoder.gguf) | {"vocab_size": embedding.shape[0], "dtype": "gguf"}
    fields = Fields(renamed(written, decoder), str(where))
    config = read_config(fields, decoder, _eos_token_ids(header))
    fields.check_text_keys(architecture)
    if header.integer("attention.value_length", config.head_dim) != config.head_dim:
        raise ModelError(f"{where}: values of another size than {config.head_dim}, that of keys, are not supported")
    window = header.integer("attention.sliding_window", 0)
    is_fixed = decoder.attention.window is not None and decoder.attention.window.enabled is True
    rope = config.rope
    if rope is not None and "rope_freqs.weight" in header.tensors:
        rope = replace(rope, scaling="frequency_factors", factor=1.0)
    tensors = header.tensors
    return replace(
        config,
        tie_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors or "blk.0.attn_qkv.bias" in tensors,
        out_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_down.bias" in tensors,
        rope=rope,
        rope_interleaved=decoder.gguf.interleaved,
        grouped_qkv=False,
        trained_order=(config.rope_interleaved, config.grouped_qkv),
        layer_windows=(window,) * config.num_layers if window and not is_fixed else config.layer_windows,
        bos_token_id=next(iter(token_id_tuple(header.metadata.get("tokenizer.ggml.bos_token_id"))), None),
    )


def _as_config(header: GgufHeader, decoder: Decoder, gguf: Gguf) -> dict[str, Any]:
    """The metadata by config.json's names; what the file does not say is left out."""
    attention = decoder.attention
    names = {
        "block_count": "num_hidden_layers",
        "embedding_length": "hidden_size",
        "context_length": decoder.max_positions.name,
        "feed_forward_length": decoder.mlp.size.name,
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": attention.num_kv_heads.name,
        "attention.key_length": attention.head_dim.name if attention.head_dim is not None else "",
        "attention.layer_norm_rms_epsilon": decoder.norm.eps.name if isinstance(decoder.norm.eps, Key) else "",
        "attention.layer_norm_epsilon": decoder.norm.eps.name if isinstance(decoder.norm.eps, Key) else "",
        "rope.freq_base": "rope_theta",
    }
    if attention.window is not None:
        names["attention.sliding_window"] = attention.window.size.name
    if decoder.experts is not None:
        names |= {"expert_count": decoder.experts.num.name, "expert_used_count": decoder.experts.chosen.name}
        names["expert_feed_forward_length"] = decoder.experts.size.name
        if decoder.experts.shared is not None:
            names["expert_shared_feed_forward_length"] = decoder.experts.shared.size.name
    config = {name: single(header.get(key)) for key, name in (*names.items(), *gguf.keys) if header.get(key) is not None}
    config.pop("", None)
    slides = header.get("attention.sliding_window_pattern")
    if attention.window is not None and not config.get(attention.window.size.name):
        config[attention.window.size.name] = None  # no layer slides
    elif attention.window is not None and isinstance(slides, list):
        config["layer_types"] = ["sliding_attention" if slide else "full_attention" for slide in slides]
    config["num_ln_in_parallel_attn"] = 2 if "blk.0.attn_norm_2.weight" in header.tensors else 1
    return config | _scores(header, gguf) | dict(gguf.implied) | _rope(header, decoder)


def _scores(header: GgufHeader, gguf: Gguf) -> dict[str, Any]:
    """What Gemma's scores are scaled by, which files do not say."""
    if not gguf.scaled_by_hidden:
        return {}
    size = _mean_head(header)
    by_hidden = header.integer("block_count", 0) in gguf.scaled_by_hidden
    return {"query_pre_attn_scalar": size if by_hidden else header.integer("attention.key_length", size)}


def _mean_head(header: GgufHeader) -> int:
    """Hidden features of a head."""
    return header.integer("embedding_length", 0) // max(header.integer("attention.head_count", 1), 1)


def _rope(header: GgufHeader, decoder: Decoder) -> dict[str, Any]:
    if decoder.attention.rotary is None:
        return {}
    kind = header.get("rope.scaling.type", "none")
    factor = header.number("rope.scaling.factor", header.number("rope.scale_linear", 1.0))
    if (not isinstance(kind, str) or kind not in _SCALINGS) and "rope_freqs.weight" not in header.tensors:
        raise ModelError(
            f"{header.path}: rope scaling {short_repr(kind)} is not supported",
            f"supported: {', '.join(_SCALINGS)}, frequency factors",
        )
    config: dict[str, Any] = {}
    if rotated := header.integer("rope.dimension_count", 0):
        size = header.integer("attention.key_length", _mean_head(header))
        rotary = decoder.attention.rotary
        part = "partial_rotary_factor" if rotary.part is None else rotary.part.name
        config = {rotary.dim.name: rotated} if rotary.dim is not None else {part: rotated / max(size, 1)}
    if kind == "yarn":
        original = header.get("rope.scaling.original_context_length")
        scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        scaling |= {name: value for name, value in decoder.gguf.implied if name == "truncate"} if decoder.gguf else {}
        return config | {"rope_scaling": scaling}
    if kind in ("linear", "none") and factor != 1.0:
        return config | {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    return config


def _eos_token_ids(header: GgufHeader) -> tuple[int, ...]:
    """End of text and, where the file names one, end of turn."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return tuple(dict.fromkeys(i for key in keys for i in token_id_tuple(header.metadata.get(key))))
