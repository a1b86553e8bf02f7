"""Command R (Cohere 1, 2): attention and MLP side by side behind a layer norm without bias, scaled logits; 2 with windows."""

from dataclasses import replace

from pagecli.model.decoder import Attention, Decoder, Gguf, Key, Norm, Rotary, Window

_BIAS = Key("attention_bias", False)

_GGUF_KEYS = (("logit_scale",) * 2,)

COHERE = Decoder(
    architectures=("CohereForCausalLM",),
    model_type="cohere",
    gguf=Gguf(name="command-r", interleaved=True, keys=_GGUF_KEYS),
    attention=Attention(qkv_bias=_BIAS, out_bias=_BIAS, rotary=Rotary(theta=5e5, interleaved=True), head_dim=None),
    norm=Norm(kind="layer", eps=Key("layer_norm_eps", 1e-5)),
    order="parallel",
    logits_scale=Key("logit_scale", 0.0625),
    tie_embeddings=Key("tie_word_embeddings", True),
    max_positions=Key("max_position_embeddings", 8192),
)
COHERE2 = replace(
    COHERE,
    architectures=("Cohere2ForCausalLM",),
    model_type="cohere2",
    gguf=Gguf(name="cohere2", interleaved=True, keys=_GGUF_KEYS),
    attention=replace(
        COHERE.attention,
        rotary=Rotary(interleaved=True, layers="sliding"),
        window=Window(pattern=Key("sliding_window_pattern", 4)),
    ),
)
