"""ModelConfig from the config.json of a transformers checkpoint, in the spelling of any transformers version.

Rotary embeddings: transformers 5 writes rope_parameters, one object or one for each kind of layer; before it, rope_theta stood
alone and rope_scaling was optional (modeling_rope_utils.py there has the formulas' sources).
"""

import math
from dataclasses import replace
from typing import Any

from pagecli.core.model_config import ExpertsConfig, ModelConfig, QuantizationConfig, RopeConfig
from pagecli.errors import ModelError, short_repr
from pagecli.model import families
from pagecli.model.decoder import Decoder, Experts, Key, Rotary, Window
from pagecli.model.readers.config_fields import MAX_NUMBER, Fields

_SLIDES, _FULL = "sliding_attention", "full_attention"
_SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
LayerKinds = list[str]  # _FULL or _SLIDES of each layer


def from_hf_config(config: dict[str, Any], where: str, eos_token_ids: tuple[int, ...] = ()) -> ModelConfig:
    """Read a config.json already parsed; `where` names it in errors; eos_token_ids, if any, replace the config's own.

    Raises ModelError for an architecture, a quantization, a rope scaling or a number that pagecli does not support, and for a
    key that changes text and was not read.
    """
    architecture, decoder = _architecture(config, where)
    quantization = _quantization(config, where) if config.get("quantization_config") else None
    if architecture in decoder.wrappers:
        inner = Fields(config, where).child("text_config").config
        if quantization is None and inner.get("quantization_config"):
            quantization = _quantization(inner, where)
        config = {name: config[name] for name in ("eos_token_id", "bos_token_id", "dtype") if name in config} | inner
    fields = Fields(renamed(config, decoder), where)
    model = read_config(fields, decoder, eos_token_ids)
    fields.check_text_keys(architecture)
    return replace(model, quantization=quantization) if quantization is not None else model


def _quantization(config: dict[str, Any], where: str) -> QuantizationConfig | None:
    from pagecli.model.readers.quantization_config import read_quantization

    return read_quantization(config, where)


def renamed(config: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
    """The config by the names that keys usually have, with the family's defaults where a key is left out."""
    names = dict(decoder.renamed)
    config = {names.get(name, name): value for name, value in config.items()}
    config |= {name: value for name, value in decoder.defaults if config.get(name) is None}
    return config if decoder.derived is None else config | decoder.derived(config)


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
    what = f"architecture {short_repr(name)}" if name else f"model_type {short_repr(kind)}" if kind else "no architecture named"
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
            f"{fields.where}: layers that have experts are given by {short_repr(every)} and {short_repr(dense)}",
            "is the file complete?",
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


def read_ropes(
    fields: Fields, rotary: Rotary | None, head_dim: int, max_positions: int, kinds: LayerKinds
) -> tuple[RopeConfig | None, tuple[RopeConfig | None, ...]]:
    """(the rotary embedding of most layers, that of each where they differ). Raises ModelError for a scaling not known here."""
    if rotary is None:
        return None, ()
    parts = fields.child("rope_parameters")
    nested = {kind: parts.child(kind) for kind in (_FULL, _SLIDES) if isinstance(parts.get(kind), dict)}
    scaling = parts if fields.get("rope_parameters") is not None else fields.child("rope_scaling")
    full = _rope(fields, nested.get(_FULL, scaling), rotary, head_dim, max_positions)
    if rotary.query_scale and scaling.get(rotary.query_scale):
        full = replace(full, context=full.original_max_positions)
    sliding = full
    if _SLIDES in nested:
        sliding = _rope(fields, nested[_SLIDES], rotary, head_dim, max_positions)
    elif rotary.local is not None:
        sliding = RopeConfig(fields.number(rotary.local), full.rotary_dim)
    elif rotary.scaled == "full":
        sliding = RopeConfig(full.theta, full.rotary_dim)
    ropes = [sliding if kind == _SLIDES else full for kind in kinds]
    has_rope = _rotated_layers(fields, rotary, kinds)
    layers = tuple(rope if rotated else None for rope, rotated in zip(ropes, has_rope, strict=True))
    return full, layers if set(layers) != {full} else ()


def context_of(rope: RopeConfig | None, max_positions: int) -> int:
    """The most positions that the rotary embedding is good for."""
    return min(max_positions, rope.context) if rope is not None and rope.context else max_positions


def _rotated_layers(fields: Fields, rotary: Rotary, kinds: LayerKinds) -> list[bool]:
    if rotary.layers == "sliding":
        slides = [kind == _SLIDES for kind in kinds]
        return slides if any(slides) else [True] * len(kinds)
    if rotary.layers == "no_rope_layers":
        listed, interval = fields.get("no_rope_layers"), fields.size(Key("no_rope_layer_interval", 4))
        if isinstance(listed, list) and len(listed) == len(kinds):
            return [bool(rotated) for rotated in listed]
        return [(layer + 1) % interval != 0 for layer in range(len(kinds))]
    return [True] * len(kinds)


def _rope(fields: Fields, rope: Fields, rotary: Rotary, head_dim: int, max_positions: int) -> RopeConfig:
    kind = rope.get("rope_type", rope.get("type", "default"))
    kind = {"su": "longrope"}.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in _SCALINGS:
        raise ModelError(
            f"{fields.where}: rope scaling {short_repr(kind)} is not supported",
            f"supported: {', '.join(_SCALINGS)}; without its rope scaling the model is good for shorter texts",
        )
    theta = rope.number(Key("rope_theta", fields.number(Key("rope_theta", rotary.theta))))
    plain = RopeConfig(theta, _rotary_dim(fields, rope, rotary, head_dim))
    original = rope.size(Key("original_max_position_embeddings", None), max_positions)
    match kind:
        case "linear":
            return replace(plain, scaling=kind, factor=rope.number(Key("factor")))
        case "llama3":
            low, high = rope.number(Key("low_freq_factor")), rope.number(Key("high_freq_factor"))
            return RopeConfig(theta, plain.rotary_dim, kind, rope.number(Key("factor")), low, high, original)
        case "yarn":
            return _yarn(rope, plain, original, max_positions)
        case "longrope":
            return _longrope(fields, rope, plain, max_positions)
        case "dynamic" if rope.get("alpha"):  # Hunyuan: another theta, whatever the length
            power = plain.rotary_dim / (plain.rotary_dim - 2)
            return replace(plain, theta=theta * rope.number(Key("alpha")) ** power)
    return plain  # dynamic: scaled beyond max_positions alone, which no context here is


def _rotary_dim(fields: Fields, rope: Fields, rotary: Rotary, head_dim: int) -> int:
    if rotary.dim is not None:
        size = fields.size(rotary.dim)
    elif rotary.part is not None:  # transformers 5 writes partial_rotary_factor, whatever the family called it before
        size = int(head_dim * rope.number(Key("partial_rotary_factor", fields.number(rotary.part))) + 1e-6)
    elif rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1)) != 1:
        raise ModelError(
            f"{fields.where}: rotating a part of each head is not supported", "this architecture rotates all of it"
        )
    else:
        size = head_dim
    if size % 2 or not 0 < size <= head_dim:
        raise ModelError(f"{fields.where}: {size} rotated dimensions of a head of {head_dim} are not supported")
    return size


def _yarn(rope: Fields, plain: RopeConfig, original: int, max_positions: int) -> RopeConfig:
    factor = rope.number(Key("factor", max_positions / original))
    attention = rope.get("attention_factor")
    if attention is None:
        scale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
        attention = _mscale(factor, scale) / _mscale(factor, all_dim) if scale and all_dim else _mscale(factor, 1.0)
    return replace(
        plain,
        scaling="yarn",
        factor=factor,
        original_max_positions=original,
        beta_fast=rope.number(Key("beta_fast", 32.0)),
        beta_slow=rope.number(Key("beta_slow", 1.0)),
        truncate=bool(rope.get("truncate", True)),
        attention_factor=_number(rope, "attention_factor", attention),
    )


def _mscale(factor: float, scale: Any) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 and isinstance(scale, int | float) else 1.0


def _longrope(fields: Fields, rope: Fields, plain: RopeConfig, max_positions: int) -> RopeConfig:
    """With its short factors, which transformers too takes within the original context; longer contexts are not offered."""
    original = fields.get("original_max_position_embeddings", rope.get("original_max_position_embeddings"))
    original = max_positions if original is None else original
    divisors = rope.get("short_factor")
    if (
        not isinstance(original, int)
        or not isinstance(divisors, list)
        or len(divisors) != plain.rotary_dim // 2
        or not all(isinstance(each, int | float) and each > 0 for each in divisors)
    ):
        raise ModelError(f"{rope.where}: longrope without short_factor for each of {plain.rotary_dim // 2} rotated pairs")
    factor = rope.get("factor", max_positions / original if original else 1.0)
    attention = rope.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    return replace(
        plain,
        scaling="divisors",
        divisors=tuple(map(float, divisors)),
        original_max_positions=original,
        attention_factor=_number(rope, "attention_factor", attention),
        context=original,
    )


def _number(rope: Fields, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_NUMBER:
        raise ModelError(f"{rope.where}: {name} is {short_repr(value)}, expected a positive number")
    return float(value)
