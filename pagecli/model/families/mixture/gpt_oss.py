"""gpt-oss: sinks in the softmax of scores, every other layer slides, experts with biases and a clamped gate."""

from pagecli.model.decoder import Attention, Decoder, Experts, Gguf, Key, Norm, Rotary, Window

_BIAS = Key("attention_bias", True)
_GATE_UP = ("mlp.experts.gate_up_proj", ("mlp.experts.gate_proj", "mlp.experts.up_proj"))

GPT_OSS = Decoder(
    architectures=("GptOssForCausalLM",),
    model_type="gpt_oss",
    gguf=Gguf(name="gpt-oss", implied=(("truncate", False),), tensors=(_GATE_UP,)),
    renamed=(("num_local_experts", "num_experts"),),
    attention=Attention(
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        rotary=Rotary(theta=150000.0),
        head_dim=Key("head_dim", 64),
        window=Window(size=Key("sliding_window", 128), pattern=2),
        sinks="self_attn.sinks",
    ),
    experts=Experts(
        size=Key("intermediate_size"),
        router="mlp.router.weight",
        router_bias="mlp.router.bias",
        normalized=True,
        up=("mlp.experts.gate_up_proj",),
        up_bias="mlp.experts.gate_up_proj_bias",
        interleaved=True,
        down="mlp.experts.down_proj",
        down_bias="mlp.experts.down_proj_bias",
        transposed=True,
        limit=Key("swiglu_limit", 7.0),
        alpha=Key("swiglu_alpha", 1.702),
    ),
    norm=Norm(eps=Key("rms_norm_eps", 1e-5)),
)
