"""Granite 3 and 4 (dense): Llama with multipliers of embeddings, scores, additions and logits."""

from pagecli.model.decoder import MLP, Attention, Decoder, Embedding, Gguf, Key, inverse

_BIAS = Key("attention_bias", False)

GGUF_KEYS = (
    ("embedding_scale", "embedding_multiplier"),
    ("attention.scale", "attention_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
)

GRANITE = Decoder(
    architectures=("GraniteForCausalLM",),
    model_type="granite",
    gguf=Gguf(name="granite", interleaved=True, keys=GGUF_KEYS),
    embedding=Embedding(scale=Key("embedding_multiplier", 1.0)),
    attention=Attention(qkv_bias=_BIAS, out_bias=_BIAS, scale=Key("attention_multiplier", 1.0)),
    mlp=MLP(bias=Key("mlp_bias", False)),
    residual_scale=Key("residual_multiplier", 1.0),
    logits_scale=Key("logits_scaling", 1.0, of=inverse),
)
