"""The Llama family: Llama 1 to 3, SmolLM2, Mistral (sliding window), Qwen2 (biases of Q, K and V), Qwen3 (QK norm)."""

from pagecli.model.decoder import MLP, Attention, Decoder, Gguf, Key, Window

_BIAS = Key("attention_bias", False)
_QWEN_WINDOW = Window(enabled=Key("use_sliding_window", False), first=Key("max_window_layers", 28))

LLAMA = Decoder(
    architectures=("LlamaForCausalLM",),
    model_type="llama",
    gguf=Gguf(name="llama", interleaved=True),
    attention=Attention(qkv_bias=_BIAS, out_bias=_BIAS),
    mlp=MLP(bias=Key("mlp_bias", False)),
)
MISTRAL = Decoder(architectures=("MistralForCausalLM",), model_type="mistral", attention=Attention(window=Window()))
QWEN2 = Decoder(
    architectures=("Qwen2ForCausalLM",),
    model_type="qwen2",
    gguf=Gguf(name="qwen2"),
    attention=Attention(qkv_bias=True, window=_QWEN_WINDOW),
)
QWEN3 = Decoder(
    architectures=("Qwen3ForCausalLM",),
    model_type="qwen3",
    gguf=Gguf(name="qwen3"),
    attention=Attention(
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        qk_norm=("self_attn.q_norm", "self_attn.k_norm"),
        head_dim=Key("head_dim", 128),
        window=_QWEN_WINDOW,
    ),
)
