"""OLMo 1 to 3: layer norms without weights; from 2 on norms of outputs and of all query and key heads; 3 with windows."""

from dataclasses import replace

from pagecli.model.decoder import Attention, Decoder, Gguf, Key, Norm, Rotary, Window

_BIAS = Key("attention_bias", False)

OLMO = Decoder(
    architectures=("OlmoForCausalLM",),
    model_type="olmo",
    gguf=Gguf(name="olmo", interleaved=True, keys=(("attention.clamp_kqv", "clip_qkv"),)),
    attention=Attention(qkv_bias=_BIAS, out_bias=_BIAS, head_dim=None),
    norm=Norm(kind="layer", eps=1e-5, affine=False),
)
OLMO2 = replace(
    OLMO,
    architectures=("Olmo2ForCausalLM",),
    model_type="olmo2",
    gguf=Gguf(name="olmo2"),
    attention=replace(OLMO.attention, qk_norm=("self_attn.q_norm", "self_attn.k_norm"), qk_norm_heads=False),
    norm=Norm(eps=Key("rms_norm_eps", 1e-5)),
    order="output",
)
OLMO3 = replace(
    OLMO2,
    architectures=("Olmo3ForCausalLM",),
    model_type="olmo3",
    gguf=None,
    attention=replace(OLMO2.attention, rotary=Rotary(theta=5e5, scaled="full"), window=Window(pattern=4)),
)
