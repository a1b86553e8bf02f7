"""ModelConfig from the config.json of a transformers checkpoint, in the spelling of any transformers version."""

from typing import Any

from pagecli.core.model_config import SUPPORTED_ARCHITECTURES, ModelConfig, RopeConfig
from pagecli.errors import ModelError

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
_DEFAULT_WINDOW = 4096  # transformers' own, where config.json leaves it out
_MAX_SIZE = 2**31  # of any single number in a config; far above every model


def from_hf_config(config: dict[str, Any], where: str, eos_token_ids: tuple[int, ...] = ()) -> ModelConfig:
    """Read a config.json already parsed; `where` names it in errors; eos_token_ids, if any, replace the config's own.

    Raises ModelError for an architecture, a quantization, a rope scaling or a number that pagecli does not support.
    """
    fields = _Fields(config, where)
    architecture = _architecture(config, where)
    if config.get("quantization_config"):
        method = fields.child("quantization_config").get("quant_method") or "unknown"
        raise ModelError(
            f"{where}: weights quantized with {method} are not supported",
            "use the unquantized checkpoint, or a GGUF file, which is dequantized at load",
        )
    if SUPPORTED_ARCHITECTURES[architecture] == "opt":
        return _opt(fields, architecture, eos_token_ids)
    return _llama(fields, architecture, eos_token_ids)


class _Fields:
    """Typed access to a parsed JSON object, with errors that name the file and the key."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config = config
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        value = self.config.get(key)
        return default if value is None else value

    def size(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
            raise ModelError(f"{self.where}: {key} is {value!r}, expected a positive integer", "is the file complete?")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ModelError(f"{self.where}: {key} is {value!r}, expected a positive number", "is the file complete?")
        return float(value)

    def child(self, key: str) -> "_Fields":
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise ModelError(f"{self.where}: {key} is {value!r}, expected an object", "is the file complete?")
        return _Fields(value, self.where)

    def activation(self, key: str, default: str) -> str:
        name = self.get(key, default)
        if not isinstance(name, str) or name not in _ACTIVATIONS:
            raise ModelError(f"{self.where}: activation {name!r} is not supported", f"supported: {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[name]

    def token_ids(self, key: str) -> tuple[int, ...]:
        return token_id_tuple(self.get(key))


def token_id_tuple(value: Any) -> tuple[int, ...]:
    """An id, a list of ids or nothing -> tuple of ids: eos_token_id has been written in all three ways."""
    ids = value if isinstance(value, list) else [value]
    return tuple(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0)


def _architecture(config: dict[str, Any], where: str) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in SUPPORTED_ARCHITECTURES:
        what = f"architecture {name}" if name else "no architecture named"
        raise ModelError(f"{where}: {what} is not supported", f"supported: {', '.join(SUPPORTED_ARCHITECTURES)}")
    return name


def _heads(fields: _Fields, key: str, default: int | None = None) -> tuple[int, int]:
    """(attention heads, KV heads), checked to fit each other."""
    num_heads = fields.size("num_attention_heads")
    num_kv_heads = fields.size(key, default or num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(f"{fields.where}: {num_heads} attention heads are no multiple of {num_kv_heads} KV heads")
    return num_heads, num_kv_heads


def _head_dim(fields: _Fields, num_heads: int, architecture: str) -> int:
    if architecture == "Qwen3ForCausalLM":
        return fields.size("head_dim", 128)  # 128 is transformers' default too
    hidden = fields.size("hidden_size")
    if fields.get("head_dim") is None and hidden % num_heads:
        raise ModelError(f"{fields.where}: hidden_size {hidden} is no multiple of {num_heads} attention heads")
    return fields.size("head_dim", hidden // num_heads)


def _opt(fields: _Fields, architecture: str, eos_token_ids: tuple[int, ...]) -> ModelConfig:
    num_heads, _ = _heads(fields, "num_attention_heads")
    hidden = fields.size("hidden_size")
    bias = bool(fields.get("enable_bias", True))
    pre_norm = bool(fields.get("do_layer_norm_before", True))
    if hidden % num_heads:
        raise ModelError(f"{fields.where}: hidden_size {hidden} is no multiple of {num_heads} attention heads")
    return ModelConfig(
        architecture=architecture,
        family="opt",
        vocab_size=fields.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.size("ffn_dim"),
        num_layers=fields.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden // num_heads,
        max_positions=fields.size("max_position_embeddings", 2048),
        norm_eps=1e-5,  # transformers' OPT leaves it at torch's default
        activation=fields.activation("activation_function", "relu"),
        tie_embeddings=bool(fields.get("tie_word_embeddings", True)),
        dtype_hint=_dtype_hint(fields),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        embed_dim=fields.size("word_embed_proj_dim", hidden),
        pre_norm=pre_norm,
        final_norm=pre_norm and not fields.get("_remove_final_layer_norm", False),
        norm_affine=bool(fields.get("layer_norm_elementwise_affine", True)),
        eos_token_ids=eos_token_ids or fields.token_ids("eos_token_id"),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
    )


def _llama(fields: _Fields, architecture: str, eos_token_ids: tuple[int, ...]) -> ModelConfig:
    num_heads, num_kv_heads = _heads(fields, "num_key_value_heads")
    head_dim = _head_dim(fields, num_heads, architecture)
    max_positions = fields.size("max_position_embeddings", 2048)
    attention_bias = architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM") and bool(fields.get("attention_bias", False))
    return ModelConfig(
        architecture=architecture,
        family="llama",
        vocab_size=fields.size("vocab_size"),
        hidden_size=fields.size("hidden_size"),
        intermediate_size=fields.size("intermediate_size"),
        num_layers=fields.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=max_positions,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        activation=fields.activation("hidden_act", "silu"),
        tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
        dtype_hint=_dtype_hint(fields),
        qkv_bias=attention_bias or architecture == "Qwen2ForCausalLM",
        out_bias=attention_bias,
        mlp_bias=architecture == "LlamaForCausalLM" and bool(fields.get("mlp_bias", False)),
        qk_norm=architecture == "Qwen3ForCausalLM",
        rope=_rope(fields, head_dim, max_positions),
        layer_windows=_layer_windows(fields, architecture),
        eos_token_ids=eos_token_ids or fields.token_ids("eos_token_id"),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
    )


def _dtype_hint(fields: _Fields) -> str:
    return str(fields.get("dtype", fields.get("torch_dtype", "float32")))


def _rope(fields: _Fields, head_dim: int, max_positions: int) -> RopeConfig:
    """transformers 5 writes rope_parameters; before it, rope_theta stood alone and rope_scaling was optional."""
    rope = fields.child("rope_parameters" if fields.get("rope_parameters") is not None else "rope_scaling")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ModelError(
            f"{fields.where}: rope scaling {kind!r} is not supported",
            "supported: default, linear, llama3; without its rope scaling the model is good for shorter texts",
        )
    theta = rope.number("rope_theta", fields.number("rope_theta", 10000.0))
    if rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0)) != 1.0 or head_dim % 2:
        raise ModelError(f"{fields.where}: rotating a part of each head is not supported", "no supported architecture does")
    if kind == "default":
        return RopeConfig(theta, head_dim)
    if kind == "linear":
        return RopeConfig(theta, head_dim, kind, rope.number("factor"))
    return RopeConfig(
        theta,
        head_dim,
        kind,
        rope.number("factor"),
        rope.number("low_freq_factor"),
        rope.number("high_freq_factor"),
        rope.size("original_max_position_embeddings", max_positions),
    )


def _layer_windows(fields: _Fields, architecture: str) -> tuple[int, ...]:
    """Mistral slides in every layer; Qwen only when asked, and then in the layers from max_window_layers on or those listed."""
    num_layers = fields.size("num_hidden_layers")
    asked = architecture == "MistralForCausalLM" or (architecture != "LlamaForCausalLM" and fields.get("use_sliding_window"))
    if not asked or ("sliding_window" in fields.config and fields.get("sliding_window") is None):
        return ()
    window = fields.size("sliding_window", _DEFAULT_WINDOW)
    if architecture == "MistralForCausalLM":
        return (window,) * num_layers
    kinds = fields.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == num_layers:
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    first = fields.get("max_window_layers", 28)
    if not isinstance(first, int):
        raise ModelError(f"{fields.where}: max_window_layers is {first!r}, expected an integer", "is the file complete?")
    return tuple(window if layer >= first else 0 for layer in range(num_layers))
