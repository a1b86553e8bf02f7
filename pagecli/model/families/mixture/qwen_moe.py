"""Qwen2-MoE (Qwen1.5-MoE, Qwen2-57B-A14B) with a shared expert behind a gate, Qwen3-MoE; some layers may have an MLP."""

from pagecli.model.decoder import MLP, Attention, Decoder, Experts, Gguf, Key, Window

_BIAS = Key("attention_bias", False)
_EXPERTS = Experts(every=Key("decoder_sparse_step", 1), dense=Key("mlp_only_layers", None))

QWEN2_MOE = Decoder(
    architectures=("Qwen2MoeForCausalLM",),
    model_type="qwen2_moe",
    gguf=Gguf(name="qwen2moe"),
    renamed=(("num_local_experts", "num_experts"),),
    attention=Attention(
        qkv_bias=Key("qkv_bias", True),
        window=Window(enabled=Key("use_sliding_window", False), first=Key("max_window_layers", 28)),
    ),
    experts=Experts(
        every=_EXPERTS.every,
        dense=_EXPERTS.dense,
        shared=MLP(
            up=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
            down="mlp.shared_expert.down_proj",
            size=Key("shared_expert_intermediate_size"),
        ),
        shared_gate="mlp.shared_expert_gate.weight",
    ),
)
QWEN3_MOE = Decoder(
    architectures=("Qwen3MoeForCausalLM",),
    model_type="qwen3_moe",
    gguf=Gguf(name="qwen3moe", implied=(("norm_topk_prob", True),)),
    renamed=(("num_local_experts", "num_experts"),),
    attention=Attention(
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        qk_norm=("self_attn.q_norm", "self_attn.k_norm"),
        window=Window(enabled=Key("use_sliding_window", False)),
    ),
    experts=_EXPERTS,
)
