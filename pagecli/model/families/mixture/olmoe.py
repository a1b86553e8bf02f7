"""OLMoE: norms of all heads together, 64 experts of which a token goes to 8."""

from pagecli.model.decoder import Attention, Decoder, Experts, Gguf, Key, Norm

_BIAS = Key("attention_bias", False)

OLMOE = Decoder(
    architectures=("OlmoeForCausalLM",),
    model_type="olmoe",
    gguf=Gguf(name="olmoe", keys=(("attention.clamp_kqv", "clip_qkv"),)),
    renamed=(("num_local_experts", "num_experts"),),
    attention=Attention(
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        qk_norm=("self_attn.q_norm", "self_attn.k_norm"),
        qk_norm_heads=False,
        head_dim=None,
    ),
    experts=Experts(size=Key("intermediate_size")),
    norm=Norm(eps=Key("rms_norm_eps", 1e-5)),
)
