"""Rotary embeddings out of config.json, in the spelling of any transformers version: theta, scaling, which layers have which.

transformers 5 writes rope_parameters, one object or one for each kind of layer; before it, rope_theta stood alone and
rope_scaling was optional (modeling_rope_utils.py there has the formulas' sources).
"""

import math
from dataclasses import replace
from typing import Any

from pagecli.core.model_config import RopeConfig
from pagecli.errors import ModelError
from pagecli.model.decoder import Key, Rotary
from pagecli.model.readers.config_fields import Fields

_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
LayerKinds = list[str]  # "full_attention" or "sliding_attention" of each layer


def read_ropes(
    fields: Fields, rotary: Rotary | None, head_dim: int, max_positions: int, kinds: LayerKinds
) -> tuple[RopeConfig | None, tuple[RopeConfig | None, ...]]:
    """(the rotary embedding of most layers, that of each where they differ). Raises ModelError for a scaling not known here."""
    if rotary is None:
        return None, ()
    parts = fields.child("rope_parameters")
    nested = {kind: parts.child(kind) for kind in ("full_attention", "sliding_attention") if isinstance(parts.get(kind), dict)}
    scaling = parts if fields.get("rope_parameters") is not None else fields.child("rope_scaling")
    full = _rope(fields, nested.get("full_attention", scaling), rotary, head_dim, max_positions)
    if rotary.query_scale and scaling.get(rotary.query_scale):
        full = replace(full, context=full.original_max_positions)
    sliding = full
    if "sliding_attention" in nested:
        sliding = _rope(fields, nested["sliding_attention"], rotary, head_dim, max_positions)
    elif rotary.local is not None:
        sliding = RopeConfig(fields.number(rotary.local), full.rotary_dim)
    elif rotary.scaled == "full":
        sliding = RopeConfig(full.theta, full.rotary_dim)
    ropes = [sliding if kind == "sliding_attention" else full for kind in kinds]
    has_rope = _rotated_layers(fields, rotary, kinds)
    layers = tuple(rope if rotated else None for rope, rotated in zip(ropes, has_rope, strict=True))
    return full, layers if set(layers) != {full} else ()


def context_of(rope: RopeConfig | None, max_positions: int) -> int:
    """The most positions that the rotary embedding is good for."""
    return min(max_positions, rope.context) if rope is not None and rope.context else max_positions


def _rotated_layers(fields: Fields, rotary: Rotary, kinds: LayerKinds) -> list[bool]:
    if rotary.layers == "sliding":
        slides = [kind == "sliding_attention" for kind in kinds]
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
    if kind not in _KINDS:
        raise ModelError(
            f"{fields.where}: rope scaling {kind!r} is not supported",
            f"supported: {', '.join(_KINDS)}; without its rope scaling the model is good for shorter texts",
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
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise ModelError(f"{rope.where}: {name} is {value!r}, expected a positive number")
    return float(value)
