"""Architectures that are Llama but for a name, a bias or the order of rotated pairs: Ernie 4.5, Helium, Seed-OSS, Hunyuan."""

from pagecli.model.decoder import MLP, Attention, Decoder, Gguf, Key, Norm, Rotary

_BIAS, _MLP_BIAS = Key("attention_bias", False), Key("mlp_bias", False)

ERNIE4_5 = Decoder(
    architectures=("Ernie4_5ForCausalLM",),
    model_type="ernie4_5",
    gguf=Gguf(name="ernie4_5", interleaved=True),
    attention=Attention(
        qkv_bias=Key("use_bias", False), out_bias=Key("use_bias", False), rotary=Rotary(theta=5e5, interleaved=True)
    ),
    mlp=MLP(bias=Key("use_bias", False)),
    norm=Norm(eps=Key("rms_norm_eps", 1e-5)),
    tie_embeddings=Key("tie_word_embeddings", True),
)
HELIUM = Decoder(
    architectures=("HeliumForCausalLM",),
    model_type="helium",
    attention=Attention(qkv_bias=_BIAS, rotary=Rotary(theta=1e5, interleaved=True)),
    mlp=MLP(bias=_MLP_BIAS),
    norm=Norm(eps=Key("rms_norm_eps", 1e-8)),
)
SEED_OSS = Decoder(
    architectures=("SeedOssForCausalLM",),
    model_type="seed_oss",
    gguf=Gguf(name="seed_oss"),
    attention=Attention(
        qkv_bias=Key("attention_bias", True), out_bias=Key("attention_out_bias", False), head_dim=Key("head_dim", 128)
    ),
    mlp=MLP(bias=_MLP_BIAS),
)
HUNYUAN = Decoder(
    architectures=("HunYuanDenseV1ForCausalLM",),
    model_type="hunyuan_v1_dense",
    gguf=Gguf(name="hunyuan-dense"),
    attention=Attention(
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        qk_norm=("self_attn.query_layernorm", "self_attn.key_layernorm"),
        qk_norm_rotated=True,
    ),
    norm=Norm(eps=Key("rms_norm_eps", 1e-5)),
)
