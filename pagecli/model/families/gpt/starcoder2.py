"""StarCoder2: layer norms and biases around an ungated MLP, windows."""

from pagecli.model.decoder import MLP, Attention, Decoder, Gguf, Key, Norm, Window

_BIAS = Key("use_bias", True)

STARCODER2 = Decoder(
    architectures=("Starcoder2ForCausalLM",),
    model_type="starcoder2",
    gguf=Gguf(name="starcoder2"),
    attention=Attention(qkv_bias=_BIAS, out_bias=_BIAS, window=Window(size=Key("sliding_window", None)), head_dim=None),
    mlp=MLP(up=("mlp.c_fc",), down="mlp.c_proj", gated=False, activation=Key("hidden_act", "gelu_pytorch_tanh"), bias=_BIAS),
    norm=Norm(kind="layer", bias=True, eps=Key("norm_epsilon", 1e-5)),
    tie_embeddings=Key("tie_word_embeddings", True),
)
