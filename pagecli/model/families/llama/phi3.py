"""Phi-3, 3.5 and 4 (and 4-mini): fused QKV and gate-up, longrope, partial rotary embedding, windows."""

from pagecli.model.decoder import MLP, Attention, Decoder, Gguf, Key, Norm, Rotary, Window

PHI3 = Decoder(
    architectures=("Phi3ForCausalLM",),
    model_type="phi3",
    gguf=Gguf(name="phi3"),
    attention=Attention(
        qkv=("self_attn.qkv_proj",),
        rotary=Rotary(part=Key("partial_rotary_factor", 1.0)),
        window=Window(size=Key("sliding_window", None)),
        head_dim=None,
    ),
    mlp=MLP(up=("mlp.gate_up_proj",)),
    norm=Norm(eps=Key("rms_norm_eps", 1e-5)),
    max_positions=Key("max_position_embeddings", 4096),
)
