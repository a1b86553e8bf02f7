"""Phi-1, 1.5 and 2: attention and MLP side by side behind one layer norm, biases everywhere, partial rotary embedding."""

from pagecli.model.decoder import MLP, Attention, Decoder, Gguf, Key, Norm, Rotary

PHI = Decoder(
    architectures=("PhiForCausalLM",),
    model_type="phi",
    gguf=Gguf(name="phi2"),
    attention=Attention(
        out="self_attn.dense",
        qkv_bias=True,
        out_bias=True,
        rotary=Rotary(part=Key("partial_rotary_factor", 0.5)),
        head_dim=None,
    ),
    mlp=MLP(up=("mlp.fc1",), down="mlp.fc2", gated=False, activation=Key("hidden_act", "gelu_new"), bias=True),
    norm=Norm(kind="layer", bias=True, eps=Key("layer_norm_eps", 1e-5)),
    order="parallel",
    final_norm="model.final_layernorm",
    head_bias=True,
)
