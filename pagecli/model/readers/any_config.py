"""ModelConfig of any decoder that transformers knows, for models that its own modules compute; imports transformers."""

from typing import Any

from pagecli.core.model_config import ModelConfig
from pagecli.errors import ModelError
from pagecli.model.readers.config_fields import token_id_tuple

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
_LEAST_CONTEXT = 2048  # of configs that name none


def from_any_config(config: dict[str, Any], where: str, eos_token_ids: tuple[int, ...] = ()) -> ModelConfig:
    """The sizes that an engine needs, by transformers' own reading. Raises ModelError for what it cannot read.

    Sizes of K and V are those that the config names; what its modules hand to their attention decides at load.
    """
    from transformers import AutoConfig

    try:
        kind = str(config["model_type"])
        text = AutoConfig.for_model(kind, **{name: value for name, value in config.items() if name != "model_type"})
        text = text.get_text_config(decoder=True)
        heads, hidden = int(text.num_attention_heads), int(text.hidden_size)
        return ModelConfig(
            architecture=str((config.get("architectures") or [kind])[0]),
            vocab_size=int(text.vocab_size),
            hidden_size=hidden,
            embedding_size=hidden,
            intermediate_size=int(getattr(text, "intermediate_size", None) or 4 * hidden),
            num_layers=int(text.num_hidden_layers),
            num_heads=heads,
            num_kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(text, "head_dim", None) or hidden // heads),
            max_positions=next((int(n) for name in _CONTEXT if (n := getattr(text, name, None))), _LEAST_CONTEXT),
            norm_eps=0.0,
            activation="none",
            tie_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
            dtype_hint=str(config.get("dtype", config.get("torch_dtype", "float32"))),
            qkv_bias=False,
            out_bias=False,
            mlp_bias=False,
            eos_token_ids=eos_token_ids or token_id_tuple(text.eos_token_id),
            bos_token_id=next(iter(token_id_tuple(text.bos_token_id)), None),
        )
    except Exception as error:  # configs of all kinds of models, read by code of all kinds of people
        raise ModelError(
            f"{where}: transformers does not read it as a decoder ({_line(error)})", "is it a text model?"
        ) from error


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
