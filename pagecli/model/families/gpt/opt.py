"""OPT (Zhang et al., 2022): learned positions; LayerNorm before or, in opt-350m, which projects its embeddings, after."""

from pagecli.model.decoder import MLP, Attention, Decoder, Embedding, Key, LearnedPositions, Norm

_BIAS = Key("enable_bias", True)

OPT = Decoder(
    architectures=("OPTForCausalLM",),
    model_type="opt",
    embedding=Embedding(
        name="model.decoder.embed_tokens",
        size=Key("word_embed_proj_dim", None),
        project_in="model.decoder.project_in",
        project_out="model.decoder.project_out",
        positions=LearnedPositions("model.decoder.embed_positions", offset=2),
    ),
    layer="model.decoder.layers",
    attention=Attention(
        norm="self_attn_layer_norm",
        out="self_attn.out_proj",
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        rotary=None,
        num_kv_heads=Key("num_attention_heads"),
        head_dim=None,
    ),
    mlp=MLP(
        norm="final_layer_norm",
        up=("fc1",),
        down="fc2",
        gated=False,
        size=Key("ffn_dim"),
        activation=Key("activation_function", "relu"),
        bias=_BIAS,
    ),
    norm=Norm(kind="layer", bias=True, eps=1e-5, affine=Key("layer_norm_elementwise_affine", True)),  # eps: torch's default
    order=Key("do_layer_norm_before", True, values=((True, "pre"), (False, "post"))),
    final_norm="model.decoder.final_layer_norm",
    has_final_norm=Key("_remove_final_layer_norm", False, values=((True, False), (False, True))),
    tie_embeddings=Key("tie_word_embeddings", True),
)
