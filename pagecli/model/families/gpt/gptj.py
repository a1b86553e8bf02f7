"""GPT-J: attention and MLP side by side behind one layer norm, rotated pairs side by side, a head with a bias."""

from pagecli.model.decoder import MLP, Attention, Decoder, Embedding, Key, Norm, Rotary

GPTJ = Decoder(
    architectures=("GPTJForCausalLM",),
    model_type="gptj",
    renamed=(
        ("n_embd", "hidden_size"),
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_positions", "max_position_embeddings"),
    ),
    embedding=Embedding(name="transformer.wte"),
    layer="transformer.h",
    attention=Attention(
        norm="ln_1",
        qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        out="attn.out_proj",
        rotary=Rotary(dim=Key("rotary_dim", 64), interleaved=True),
        num_kv_heads=Key("num_attention_heads"),
        head_dim=None,
    ),
    mlp=MLP(
        up=("mlp.fc_in",),
        down="mlp.fc_out",
        gated=False,
        size=Key("n_inner", None),
        activation=Key("activation_function", "gelu_new"),
        bias=True,
    ),
    norm=Norm(kind="layer", bias=True, eps=Key("layer_norm_epsilon", 1e-5)),
    order="parallel",
    final_norm="transformer.ln_f",
    head_bias=True,
)
