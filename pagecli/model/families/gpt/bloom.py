"""BLOOM: ALiBi, a layer norm of the embeddings, rows of Q, K and V head by head."""

from pagecli.model.decoder import MLP, Attention, Decoder, Embedding, Gguf, Key, Norm

BLOOM = Decoder(
    architectures=("BloomForCausalLM",),
    model_type="bloom",
    gguf=Gguf(name="bloom"),
    renamed=(("n_embed", "hidden_size"), ("n_layer", "num_hidden_layers"), ("n_head", "num_attention_heads")),
    embedding=Embedding(name="transformer.word_embeddings", norm="transformer.word_embeddings_layernorm"),
    layer="transformer.h",
    attention=Attention(
        qkv=("self_attention.query_key_value",),
        grouped=True,
        out="self_attention.dense",
        qkv_bias=True,
        out_bias=True,
        rotary=None,
        alibi=True,
        num_kv_heads=Key("num_attention_heads"),
        head_dim=None,
    ),
    mlp=MLP(
        up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        gated=False,
        size=Key("n_inner", None),
        activation=Key("hidden_act", "gelu_new"),
        bias=True,
    ),
    norm=Norm(kind="layer", bias=True, eps=Key("layer_norm_epsilon", 1e-5)),
    final_norm="transformer.ln_f",
    tie_embeddings=Key("tie_word_embeddings", True),
    max_positions=Key("seq_length", 2048),
)
