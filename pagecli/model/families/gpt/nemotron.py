"""Nemotron (3, 4, Minitron) and Arcee (AFM): squared ReLU in an ungated MLP; Nemotron with layer norms of weight + 1."""

from pagecli.model.decoder import MLP, Attention, Decoder, Gguf, Key, Norm, Rotary

_BIAS = Key("attention_bias", False)
_MLP = MLP(up=("mlp.up_proj",), gated=False, activation=Key("hidden_act", "relu2"), bias=Key("mlp_bias", False))

NEMOTRON = Decoder(
    architectures=("NemotronForCausalLM",),
    model_type="nemotron",
    gguf=Gguf(name="nemotron"),
    attention=Attention(qkv_bias=_BIAS, out_bias=_BIAS, rotary=Rotary(part=Key("partial_rotary_factor", 0.5))),
    mlp=_MLP,
    norm=Norm(kind="layer", bias=True, offset=1.0, eps=Key("norm_eps", 1e-5)),
)
ARCEE = Decoder(
    architectures=("ArceeForCausalLM",),
    model_type="arcee",
    gguf=Gguf(name="arcee", interleaved=True),
    attention=Attention(qkv_bias=_BIAS, out_bias=_BIAS),
    mlp=_MLP,
    norm=Norm(eps=Key("rms_norm_eps", 1e-5)),
)
