"""ModelConfig from the config.json of a transformers checkpoint, in the spelling of any transformers version."""

from pathlib import Path
from typing import Any

from pagecli.core.model_config import ModelConfig, RopeConfig
from pagecli.errors import ModelError
from pagecli.model import families
from pagecli.model.decoder import REQUIRED, Decoder, Key, Window
from pagecli.model.readers import text_keys

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
_MAX_LAYERS = 10_000
_MAX_SIZE = 2**31  # of any single number in a config; far above every model


def from_hf_config(config: dict[str, Any], where: str, eos_token_ids: tuple[int, ...] = ()) -> ModelConfig:
    """Read a config.json already parsed; `where` names it in errors; eos_token_ids, if any, replace the config's own.

    Raises ModelError for an architecture, a quantization, a rope scaling or a number that pagecli does not support, and for a
    key that changes text and was not read.
    """
    fields = _Fields(config, where)
    architecture, decoder = _architecture(config, where)
    model = _read(fields, architecture, decoder, eos_token_ids)
    text_keys.check_read(config, fields.read, architecture, where)
    return model


def _read(fields: "_Fields", architecture: str, decoder: Decoder, eos_token_ids: tuple[int, ...]) -> ModelConfig:
    config, where = fields.config, fields.where
    if config.get("quantization_config"):
        method = fields.child("quantization_config").get("quant_method") or "unknown"
        raise ModelError(
            f"{where}: weights quantized with {method} are not supported",
            "use the unquantized checkpoint, or a GGUF file, which is dequantized at load",
        )
    attention, mlp = decoder.attention, decoder.mlp
    num_heads, num_kv_heads = _heads(fields, attention.num_kv_heads)
    head_dim = _head_dim(fields, attention.head_dim, num_heads)
    hidden, max_positions = fields.size(Key("hidden_size")), fields.size(decoder.max_positions)
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.size(Key("vocab_size")),
        hidden_size=hidden,
        embedding_size=fields.size(decoder.embedding.size, hidden) if decoder.embedding.size is not None else hidden,
        intermediate_size=fields.size(mlp.size),
        num_layers=fields.num_layers(),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=max_positions,
        norm_eps=fields.number(decoder.norm.eps) if isinstance(decoder.norm.eps, Key) else decoder.norm.eps,
        activation=fields.activation(mlp.activation),
        tie_embeddings=fields.choice(decoder.tie_embeddings),
        dtype_hint=str(fields.get("dtype", fields.get("torch_dtype", "float32"))),
        qkv_bias=fields.choice(attention.qkv_bias),
        out_bias=fields.choice(attention.out_bias),
        mlp_bias=fields.choice(mlp.bias),
        rope=_rope(fields, head_dim, max_positions) if attention.rotary else None,
        layer_windows=_layer_windows(fields, attention.window) if attention.window is not None else (),
        order=fields.choice(decoder.order),
        final_norm=fields.choice(decoder.has_final_norm),
        norm_affine=fields.choice(decoder.norm.affine),
        eos_token_ids=eos_token_ids or fields.token_ids("eos_token_id"),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
    )


class _Fields:
    """Typed access to a parsed JSON object, with errors that name the file and the key."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config = config
        self.where = where
        self.read: set[str] = set()  # keys that were asked for

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        value = self.config.get(key)
        return default if value is None else value

    def size(self, key: Key, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
            raise ModelError(f"{self.where}: {key.name} is {value!r}, expected a positive integer", "is the file complete?")
        return value

    def num_layers(self) -> int:
        return check_num_layers(self.size(Key("num_hidden_layers")), self.where)

    def number(self, key: Key) -> float:
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ModelError(f"{self.where}: {key.name} is {value!r}, expected a positive number", "is the file complete?")
        return float(value)

    def choice(self, key: Any) -> Any:
        """A flag, or what the key's `values` make of it; what is no Key stands for itself."""
        if not isinstance(key, Key):
            return key
        flag = bool(self.get(key.name, key.default))
        return dict(key.values)[flag] if key.values else flag

    def _value(self, key: Key, default: Any = None) -> Any:
        """What config.json says, else the key's own default, or `default` where that is None; None where it is REQUIRED."""
        if key.default is not None:
            default = None if key.default is REQUIRED else key.default
        return self.get(key.name, default)

    def child(self, key: str) -> "_Fields":
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise ModelError(f"{self.where}: {key} is {value!r}, expected an object", "is the file complete?")
        return _Fields(value, self.where)

    def activation(self, key: Key) -> str:
        name = self._value(key)
        if not isinstance(name, str) or name not in _ACTIVATIONS:
            raise ModelError(f"{self.where}: activation {name!r} is not supported", f"supported: {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[name]

    def token_ids(self, key: str) -> tuple[int, ...]:
        return token_id_tuple(self.get(key))


def check_num_layers(num_layers: int, where: Path | str) -> int:
    """`num_layers`, or ModelError: a damaged file may name any number, and each layer has its operations."""
    if num_layers > _MAX_LAYERS:
        raise ModelError(f"{where}: {num_layers:,} layers are not supported", f"at most {_MAX_LAYERS:,} are")
    return num_layers


def token_id_tuple(value: Any) -> tuple[int, ...]:
    """An id, a list of ids or nothing -> tuple of ids: eos_token_id has been written in all three ways."""
    ids = value if isinstance(value, list) else [value]
    return tuple(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0)


def _architecture(config: dict[str, Any], where: str) -> tuple[str, Decoder]:
    """By `architectures` or, where that is left out, by `model_type`."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if isinstance(name, str) and (decoder := families.find(name)) is not None:
        return name, decoder
    kind = config.get("model_type")
    if name is None and isinstance(kind, str) and (decoder := families.find_model_type(kind)) is not None:
        return decoder.architectures[0], decoder
    what = f"architecture {name}" if name else f"model_type {kind}" if kind else "no architecture named"
    raise ModelError(f"{where}: {what} is not supported", f"supported: {', '.join(families.architectures())}")


def _heads(fields: _Fields, key: Key) -> tuple[int, int]:
    """(attention heads, KV heads), checked to fit each other."""
    num_heads = fields.size(Key("num_attention_heads"))
    num_kv_heads = fields.size(key, num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(f"{fields.where}: {num_heads} attention heads are no multiple of {num_kv_heads} KV heads")
    return num_heads, num_kv_heads


def _head_dim(fields: _Fields, key: Key | None, num_heads: int) -> int:
    if key is not None and (fields.get(key.name) is not None or key.default is not None):
        return fields.size(key)
    hidden = fields.size(Key("hidden_size"))
    if hidden % num_heads:
        raise ModelError(f"{fields.where}: hidden_size {hidden} is no multiple of {num_heads} attention heads")
    return hidden // num_heads


def _rope(fields: _Fields, head_dim: int, max_positions: int) -> RopeConfig:
    """transformers 5 writes rope_parameters; before it, rope_theta stood alone and rope_scaling was optional."""
    rope = fields.child("rope_parameters" if fields.get("rope_parameters") is not None else "rope_scaling")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ModelError(
            f"{fields.where}: rope scaling {kind!r} is not supported",
            "supported: default, linear, llama3; without its rope scaling the model is good for shorter texts",
        )
    theta = rope.number(Key("rope_theta", fields.number(Key("rope_theta", 10000.0))))
    if rope.number(Key("partial_rotary_factor", fields.number(Key("partial_rotary_factor", 1.0)))) != 1.0 or head_dim % 2:
        raise ModelError(f"{fields.where}: rotating a part of each head is not supported", "no supported architecture does")
    if kind == "default":
        return RopeConfig(theta, head_dim)
    if kind == "linear":
        return RopeConfig(theta, head_dim, kind, rope.number(Key("factor")))
    return RopeConfig(
        theta,
        head_dim,
        kind,
        rope.number(Key("factor")),
        rope.number(Key("low_freq_factor")),
        rope.number(Key("high_freq_factor")),
        rope.size(Key("original_max_position_embeddings", None), max_positions),
    )


def _layer_windows(fields: _Fields, window: Window) -> tuple[int, ...]:
    num_layers = fields.num_layers()
    name = window.size.name
    if not fields.choice(window.enabled) or (name in fields.config and fields.get(name) is None):
        return ()
    size = fields.size(window.size)
    kinds = _layer_types(fields, num_layers)
    if kinds:
        return tuple(size if kind == "sliding_attention" else 0 for kind in kinds)
    first = fields.get(window.first.name, window.first.default) if isinstance(window.first, Key) else window.first
    if not isinstance(first, int):
        raise ModelError(f"{fields.where}: max_window_layers is {first!r}, expected an integer", "is the file complete?")
    return tuple(size if layer >= first else 0 for layer in range(num_layers))


def _layer_types(fields: _Fields, num_layers: int) -> list[str]:
    """Of each layer what it attends to; empty where config.json does not say."""
    kinds = fields.get("layer_types", [])
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or (kinds and len(kinds) != num_layers) or any(kind not in known for kind in kinds):
        raise ModelError(
            f"{fields.where}: layer_types is not one of {' or '.join(known)} for each of {num_layers} layers",
            "layers of other kinds are not supported",
        )
    return kinds
