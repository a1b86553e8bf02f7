"""SmolLM3: Llama whose every fourth layer rotates nothing."""

from pagecli.model.decoder import MLP, Attention, Decoder, Gguf, Key, Rotary

_BIAS = Key("attention_bias", False)

SMOLLM3 = Decoder(
    architectures=("SmolLM3ForCausalLM",),
    model_type="smollm3",
    gguf=Gguf(name="smollm3", interleaved=True),
    attention=Attention(qkv_bias=_BIAS, out_bias=_BIAS, rotary=Rotary(theta=2e6, layers="no_rope_layers"), head_dim=None),
    mlp=MLP(bias=Key("mlp_bias", False)),
    tie_embeddings=Key("tie_word_embeddings", True),
    max_positions=Key("max_position_embeddings", 32768),
)
