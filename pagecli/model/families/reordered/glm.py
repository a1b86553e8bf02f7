"""GLM-4 (9B; 0414): half of each head rotated, pairs side by side; fused gate-up; 0414 with norms on both sides."""

from dataclasses import replace

from pagecli.model.decoder import MLP, Attention, Decoder, Gguf, Key, Norm, Rotary

GLM = Decoder(
    architectures=("GlmForCausalLM",),
    model_type="glm",
    attention=Attention(
        qkv_bias=Key("attention_bias", True),
        rotary=Rotary(part=Key("partial_rotary_factor", 0.5), interleaved=True),
        head_dim=Key("head_dim", 128),
    ),
    mlp=MLP(up=("mlp.gate_up_proj",)),
    norm=Norm(eps=Key("rms_norm_eps", 1.5625e-7)),
    max_positions=Key("max_position_embeddings", 131072),
)
GLM4 = replace(
    GLM,
    architectures=("Glm4ForCausalLM",),
    model_type="glm4",
    gguf=Gguf(name="glm4", interleaved=True),
    attention=replace(GLM.attention, out_norm="post_self_attn_layernorm"),
    mlp=replace(GLM.mlp, out_norm="post_mlp_layernorm"),
    order="sandwich",
)
