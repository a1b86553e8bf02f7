"""StableLM (3B, Zephyr, 2 1.6B): Llama with layer norms and partial rotary embedding."""

from pagecli.model.decoder import Attention, Decoder, Gguf, Key, Norm, Rotary

STABLELM = Decoder(
    architectures=("StableLmForCausalLM",),
    model_type="stablelm",
    gguf=Gguf(name="stablelm", keys=(("use_parallel_residual",) * 2,)),
    attention=Attention(
        qkv_bias=Key("use_qkv_bias", False), rotary=Rotary(part=Key("partial_rotary_factor", 0.25)), head_dim=None
    ),
    norm=Norm(kind="layer", bias=True, eps=Key("layer_norm_eps", 1e-5)),
    order=Key("use_parallel_residual", False, values=((True, "parallel"), (False, "pre"))),
    max_positions=Key("max_position_embeddings", 4096),
)
