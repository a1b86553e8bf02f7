"""GPT-2: learned positions, layer norms, biases, weights that lie as [inputs, outputs]."""

from pagecli.model.decoder import MLP, Attention, Decoder, Embedding, Gguf, Key, LearnedPositions, Norm

GPT2 = Decoder(
    architectures=("GPT2LMHeadModel",),
    model_type="gpt2",
    gguf=Gguf(name="gpt2"),
    renamed=(
        ("n_embd", "hidden_size"),
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_positions", "max_position_embeddings"),
    ),
    transposed=True,
    embedding=Embedding(name="transformer.wte", positions=LearnedPositions("transformer.wpe")),
    layer="transformer.h",
    attention=Attention(
        norm="ln_1",
        qkv=("attn.c_attn",),
        out="attn.c_proj",
        qkv_bias=True,
        out_bias=True,
        rotary=None,
        num_kv_heads=Key("num_attention_heads"),
        head_dim=None,
    ),
    mlp=MLP(
        norm="ln_2",
        up=("mlp.c_fc",),
        down="mlp.c_proj",
        gated=False,
        size=Key("n_inner", None),
        activation=Key("activation_function", "gelu_new"),
        bias=True,
    ),
    norm=Norm(kind="layer", bias=True, eps=Key("layer_norm_epsilon", 1e-5)),
    final_norm="transformer.ln_f",
    tie_embeddings=Key("tie_word_embeddings", True),
)
