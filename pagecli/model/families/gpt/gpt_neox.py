"""GPT-NeoX and Pythia: attention and MLP side by side, each behind its layer norm; rows of Q, K and V head by head."""

from pagecli.model.decoder import MLP, Attention, Decoder, Embedding, Gguf, Key, Norm, Rotary

_BIAS = Key("attention_bias", True)

GPT_NEOX = Decoder(
    architectures=("GPTNeoXForCausalLM",),
    model_type="gpt_neox",
    gguf=Gguf(name="gptneox", keys=(("use_parallel_residual",) * 2,)),
    renamed=(("rotary_emb_base", "rope_theta"),),
    embedding=Embedding(name="gpt_neox.embed_in"),
    layer="gpt_neox.layers",
    attention=Attention(
        qkv=("attention.query_key_value",),
        grouped=True,
        out="attention.dense",
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        rotary=Rotary(part=Key("rotary_pct", 0.25)),
        num_kv_heads=Key("num_attention_heads"),
        head_dim=None,
    ),
    mlp=MLP(
        up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        gated=False,
        activation=Key("hidden_act", "gelu"),
        bias=True,
    ),
    norm=Norm(kind="layer", bias=True, eps=Key("layer_norm_eps", 1e-5)),
    order=Key("use_parallel_residual", True, values=((True, "parallel_norms"), (False, "pre"))),
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out",
)
