"""Typed access to a parsed config.json, with errors that name the file and the key.

A key that changes a model's text, is set, and was not read is refused, not ignored.
"""

from pathlib import Path
from typing import Any

from pagecli.errors import ModelError, short_repr
from pagecli.model.decoder import REQUIRED, Key

ACTIVATIONS = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
_MAX_LAYERS = 10_000
MAX_NUMBER = 1e30  # far above every model's, and its square is still a float64
_MAX_SIZE = 2**31  # of any single number in a config; far above every model
_OFF = (None, False, 0)
# Keys that change a model's text, and their values that change nothing. What adds weights (biases, norms, experts) needs no
# entry: a tensor that is left over is refused too (weights/reader.py).
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


class Fields:
    """The keys of one JSON object; `read` are those that were asked for, here and in the objects inside it."""

    def __init__(self, config: dict[str, Any], where: str, read: set[str] | None = None) -> None:
        self.config = config
        self.where = where
        self.read: set[str] = set() if read is None else read

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        value = self.config.get(key)
        return default if value is None else value

    def size(self, key: Key, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
            raise ModelError(
                f"{self.where}: {key.name} is {short_repr(value)}, expected a positive integer", "is the file complete?"
            )
        return value

    def num_layers(self) -> int:
        return check_num_layers(self.size(Key("num_hidden_layers")), self.where)

    def number(self, key: Key) -> float:
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_NUMBER:
            raise ModelError(
                f"{self.where}: {key.name} is {short_repr(value)}, expected a positive number", "is the file complete?"
            )
        return float(value) if key.of is None else key.of(float(value))

    def factor(self, key: Key | float) -> float:
        """A number that the description gives, or that the key does."""
        return self.number(key) if isinstance(key, Key) else key

    def number_or(self, key: Key | None, default: Any) -> Any:
        """The key's number; `default` without a key, and where it is null or 0."""
        if key is None or (key.name in self.config and not self.get(key.name)) or not self._value(key):
            return default
        return self.number(key)

    def choice(self, key: Any) -> Any:
        """A flag, or what the key's `values` make of it; what is no Key stands for itself."""
        if not isinstance(key, Key):
            return key
        found, values = self.get(key.name, key.default), dict(key.values)
        if isinstance(found, str) and found in values:
            return values[found]
        return values[bool(found)] if values else bool(found)

    def integer(self, key: Key | int) -> int:
        value = self.get(key.name, key.default) if isinstance(key, Key) else key
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError(f"{self.where}: {key} is {short_repr(value)}, expected an integer", "is the file complete?")
        return value

    def _value(self, key: Key, default: Any = None) -> Any:
        """What config.json says, else the key's own default, or `default` where that is None; None where it is REQUIRED."""
        if key.default is not None:
            default = None if key.default is REQUIRED else key.default
        return self.get(key.name, default)

    def child(self, key: str) -> "Fields":
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise ModelError(f"{self.where}: {key} is {short_repr(value)}, expected an object", "is the file complete?")
        return Fields(value, self.where, self.read)

    def activation(self, key: Key) -> str:
        name = self._value(key)
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise ModelError(
                f"{self.where}: activation {short_repr(name)} is not supported", f"supported: {', '.join(ACTIVATIONS)}"
            )
        return dict(key.values).get(name, ACTIVATIONS[name])

    def token_ids(self, key: str) -> tuple[int, ...]:
        return token_id_tuple(self.get(key))

    def check_text_keys(self, architecture: str) -> None:
        """Raise ModelError naming the first key that changes a model's text, is set, and that no description has read."""
        for name, neutral in TEXT_KEYS.items():
            value = self.config.get(name)
            if name in self.config and name not in self.read and value not in neutral and not _plain(value):
                raise ModelError(
                    f"{self.where}: {name} is {short_repr(value)}, which {architecture} is not computed with here",
                    "the text would be another model's; a newer pagecli may know it",
                )


def check_num_layers(num_layers: int, where: Path | str) -> int:
    """`num_layers`, or ModelError: a damaged file may name any number, and each layer has its operations."""
    if num_layers > _MAX_LAYERS:
        raise ModelError(f"{where}: {num_layers:,} layers are not supported", f"at most {_MAX_LAYERS:,} are")
    return num_layers


def token_id_tuple(value: Any) -> tuple[int, ...]:
    """An id, a list of ids or nothing -> tuple of ids: eos_token_id has been written in all three ways."""
    ids = value if isinstance(value, list) else [value]
    return tuple(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0)


def _plain(value: Any) -> bool:
    """Whether a list says the same as one left out: every layer attends to everything."""
    return isinstance(value, list) and all(kind == "full_attention" for kind in value)
