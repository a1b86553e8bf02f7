"""ModelConfig from the config.json of a transformers checkpoint, in the spelling of any transformers version."""

from dataclasses import replace
from typing import Any

from pagecli.core.model_config import ExpertsConfig, ModelConfig
from pagecli.errors import ModelError
from pagecli.model import families
from pagecli.model.decoder import Decoder, Experts, Key, Window
from pagecli.model.readers.config_fields import Fields
from pagecli.model.readers.quantization_config import read_quantization
from pagecli.model.readers.rope_config import LayerKinds, context_of, read_ropes

_SLIDES, _FULL = "sliding_attention", "full_attention"


def from_hf_config(config: dict[str, Any], where: str, eos_token_ids: tuple[int, ...] = ()) -> ModelConfig:
    """Read a config.json already parsed; `where` names it in errors; eos_token_ids, if any, replace the config's own.

    Raises ModelError for an architecture, a quantization, a rope scaling or a number that pagecli does not support, and for a
    key that changes text and was not read.
    """
    architecture, decoder = _architecture(config, where)
    quantization = read_quantization(config, where)
    if architecture in decoder.wrappers:
        inner = Fields(config, where).child("text_config").config
        quantization = quantization or read_quantization(inner, where)
        config = {name: config[name] for name in ("eos_token_id", "bos_token_id", "dtype") if name in config} | inner
    fields = Fields(renamed(config, decoder), where)
    model = read_config(fields, decoder, eos_token_ids)
    fields.check_text_keys(architecture)
    return replace(model, quantization=quantization)


def renamed(config: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
    """The config by the names that keys usually have, with the family's defaults where a key is left out."""
    names = dict(decoder.renamed)
    config = {names.get(name, name): value for name, value in config.items()}
    return config | {name: value for name, value in decoder.defaults if config.get(name) is None}


def read_config(fields: Fields, decoder: Decoder, eos_token_ids: tuple[int, ...] = ()) -> ModelConfig:
    """The config of a model that `decoder` describes. Raises ModelError."""
    attention, mlp = decoder.attention, decoder.mlp
    num_heads, num_kv_heads = _heads(fields, attention.num_kv_heads)
    head_dim = _head_dim(fields, attention.head_dim, num_heads)
    hidden, num_layers, max_positions = fields.size(Key("hidden_size")), fields.num_layers(), fields.size(decoder.max_positions)
    windows = _layer_windows(fields, attention.window) if attention.window is not None else ()
    kinds: LayerKinds = [_SLIDES if window else _FULL for window in windows or (0,) * num_layers]
    alibi = fields.choice(attention.alibi)
    rope, layer_ropes = read_ropes(fields, None if alibi else attention.rotary, head_dim, max_positions, kinds)
    return ModelConfig(
        architecture=decoder.architectures[0],
        vocab_size=fields.size(Key("vocab_size")),
        hidden_size=hidden,
        embedding_size=fields.size(decoder.embedding.size, hidden) if decoder.embedding.size is not None else hidden,
        intermediate_size=fields.size(mlp.size, 4 * hidden),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=context_of(rope, max_positions),
        norm_eps=fields.factor(decoder.norm.eps),
        activation=fields.activation(mlp.activation),
        tie_embeddings=fields.choice(decoder.tie_embeddings),
        dtype_hint=str(fields.get("dtype", fields.get("torch_dtype", "float32"))),
        qkv_bias=fields.choice(attention.qkv_bias),
        out_bias=fields.choice(attention.out_bias),
        mlp_bias=fields.choice(mlp.bias),
        rope=rope,
        layer_ropes=layer_ropes,
        rope_interleaved=attention.rotary is not None and attention.rotary.interleaved,
        layer_windows=windows,
        order=fields.choice(decoder.order),
        final_norm=fields.choice(decoder.has_final_norm),
        norm_affine=fields.choice(decoder.norm.affine),
        grouped_qkv=fields.choice(attention.grouped),
        alibi=alibi,
        embedding_scale=fields.factor(decoder.embedding.scale),
        residual_scale=fields.factor(decoder.residual_scale),
        attention_scale=fields.number_or(attention.scale, None),
        attention_cap=fields.number_or(attention.cap, 0.0),
        logits_scale=fields.factor(decoder.logits_scale),
        logits_cap=fields.number_or(decoder.logits_cap, 0.0),
        experts=_experts(fields, decoder.experts, num_layers) if decoder.experts is not None else None,
        eos_token_ids=eos_token_ids or fields.token_ids("eos_token_id"),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
    )


def _architecture(config: dict[str, Any], where: str) -> tuple[str, Decoder]:
    """By `architectures` or, where that is left out, by `model_type`."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if isinstance(name, str) and (decoder := families.find(name)) is not None:
        return name, decoder
    if isinstance(name, str) and name.endswith("Model"):  # saved without its LM head, as embedding models are
        whole = f"{name.removesuffix('Model')}ForCausalLM"
        if (decoder := families.find(whole)) is not None:
            return whole, decoder
    kind = config.get("model_type")
    if name is None and isinstance(kind, str) and (decoder := families.find_model_type(kind)) is not None:
        return decoder.architectures[0], decoder
    what = f"architecture {name}" if name else f"model_type {kind}" if kind else "no architecture named"
    raise ModelError(
        f"{where}: {what} is not supported",
        f"--model-impl transformers runs most others; supported: {', '.join(families.architectures())}",
    )


def _heads(fields: Fields, key: Key) -> tuple[int, int]:
    """(attention heads, KV heads), checked to fit each other."""
    num_heads = fields.size(Key("num_attention_heads"))
    num_kv_heads = fields.size(key, num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(f"{fields.where}: {num_heads} attention heads are no multiple of {num_kv_heads} KV heads")
    return num_heads, num_kv_heads


def _head_dim(fields: Fields, key: Key | None, num_heads: int) -> int:
    if key is not None and (fields.get(key.name) is not None or key.default is not None):
        return fields.size(key)
    hidden = fields.size(Key("hidden_size"))
    if hidden % num_heads:
        raise ModelError(f"{fields.where}: hidden_size {hidden} is no multiple of {num_heads} attention heads")
    return hidden // num_heads


def _experts(fields: Fields, experts: Experts, num_layers: int) -> ExpertsConfig:
    num, chosen, every = fields.size(experts.num), fields.size(experts.chosen), fields.integer(experts.every)
    if chosen > num:
        raise ModelError(f"{fields.where}: {experts.chosen.name} is {chosen}, of {num} experts", "is the file complete?")
    dense = fields.get(experts.dense.name, []) if experts.dense is not None else []
    if every < 1 or not isinstance(dense, list):
        raise ModelError(
            f"{fields.where}: layers that have experts are given by {every!r} and {dense!r}", "is the file complete?"
        )
    return ExpertsConfig(
        num=num,
        chosen=chosen,
        size=fields.size(experts.size),
        sparse_layers=tuple(layer not in dense and (layer + 1) % every == 0 for layer in range(num_layers)),
        normalized=fields.choice(experts.normalized),
        shared_size=0 if experts.shared is None else fields.size(experts.shared.size),
        limit=fields.number_or(experts.limit, 0.0),
        alpha=1.0 if experts.alpha is None else fields.number(experts.alpha),
    )


def _layer_windows(fields: Fields, window: Window) -> tuple[int, ...]:
    num_layers = fields.num_layers()
    name = window.size.name
    enabled, kinds = fields.choice(window.enabled), _layer_types(fields, num_layers)
    for key in (window.pattern, window.first):  # of no account where layer_types says more, or nothing slides
        fields.read |= {key.name} if isinstance(key, Key) else set()
    if not enabled or ((name in fields.config or window.size.default is None) and fields.get(name) is None):
        return ()
    if _SLIDES not in kinds and kinds:
        return ()
    size = fields.size(window.size)
    if kinds:
        return tuple(size if kind == _SLIDES else 0 for kind in kinds)
    pattern, first = fields.integer(window.pattern), fields.integer(window.first)
    if pattern > 0:
        return tuple(size if (layer + 1) % pattern else 0 for layer in range(num_layers))
    return tuple(size if layer >= first else 0 for layer in range(num_layers))


def _layer_types(fields: Fields, num_layers: int) -> list[str]:
    """Of each layer what it attends to; empty where config.json does not say."""
    kinds = fields.get("layer_types", [])
    known = (_FULL, _SLIDES)
    if not isinstance(kinds, list) or (kinds and len(kinds) != num_layers) or any(kind not in known for kind in kinds):
        raise ModelError(
            f"{fields.where}: layer_types is not one of {' or '.join(known)} for each of {num_layers} layers",
            "layers of other kinds are not supported",
        )
    return kinds
