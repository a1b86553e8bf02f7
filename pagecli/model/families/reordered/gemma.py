"""Gemma 1 to 3 (text): norms of weight + 1, scaled embeddings; from 2 on norms on both sides, windows, caps or QK norms."""

from dataclasses import replace

from pagecli.model.decoder import MLP, SQRT_HIDDEN, Attention, Decoder, Embedding, Gguf, Key, Norm, Rotary, Window, inverse_sqrt

_TANH = (("gelu", "gelu_tanh"),)  # early files say gelu and mean its approximation
_QUERY_SCALE = Key("query_pre_attn_scalar", 256, of=inverse_sqrt)

_CAPS = tuple((f"{part}_logit_softcapping",) * 2 for part in ("attn", "final"))  # by the same names in GGUF

GEMMA = Decoder(
    architectures=("GemmaForCausalLM",),
    model_type="gemma",
    gguf=Gguf(name="gemma"),
    embedding=Embedding(scale=SQRT_HIDDEN),
    attention=Attention(
        qkv_bias=Key("attention_bias", False), out_bias=Key("attention_bias", False), head_dim=Key("head_dim", 256)
    ),
    mlp=MLP(activation=Key("hidden_act", "gelu_pytorch_tanh", _TANH)),
    norm=Norm(offset=1.0),
    tie_embeddings=Key("tie_word_embeddings", True),
    max_positions=Key("max_position_embeddings", 8192),
)
GEMMA2 = replace(
    GEMMA,
    architectures=("Gemma2ForCausalLM",),
    model_type="gemma2",
    gguf=Gguf(name="gemma2", keys=_CAPS, scaled_by_hidden=(46,)),
    attention=replace(
        GEMMA.attention,
        window=Window(pattern=2),
        scale=_QUERY_SCALE,
        cap=Key("attn_logit_softcapping", 50.0),
    ),
    mlp=MLP(norm="pre_feedforward_layernorm", activation=Key("hidden_activation", "gelu_pytorch_tanh")),
    order="sandwich",
    logits_cap=Key("final_logit_softcapping", 30.0),
)
GEMMA3 = replace(
    GEMMA2,
    architectures=("Gemma3ForCausalLM",),
    model_type="gemma3_text",
    gguf=Gguf(name="gemma3", keys=(*_CAPS, ("rope.freq_base_swa", "rope_local_base_freq")), scaled_by_hidden=(62,)),
    wrappers=("Gemma3ForConditionalGeneration",),
    defaults=(("vocab_size", 262208), ("num_attention_heads", 8), ("num_key_value_heads", 4), ("hidden_size", 2304)),
    attention=replace(
        GEMMA2.attention,
        qk_norm=("self_attn.q_norm", "self_attn.k_norm"),
        rotary=Rotary(theta=1e6, local=Key("rope_local_base_freq", 10000.0)),
        window=Window(pattern=Key("sliding_window_pattern", 6)),
        cap=Key("attn_logit_softcapping", None),
    ),
    logits_cap=Key("final_logit_softcapping", None),
    max_positions=Key("max_position_embeddings", 131072),
)
