"""Mixtral: Mistral with experts in every layer."""

from pagecli.model.decoder import Attention, Decoder, Experts, Gguf, Key, Window

MIXTRAL = Decoder(
    architectures=("MixtralForCausalLM",),
    model_type="mixtral",
    gguf=Gguf(name="llama", interleaved=True),
    renamed=(("num_local_experts", "num_experts"),),
    attention=Attention(window=Window(size=Key("sliding_window", None))),
    experts=Experts(
        size=Key("intermediate_size"),
        router="block_sparse_moe.gate.weight",
        normalized=True,
        up=("block_sparse_moe.experts.{}.w1.weight", "block_sparse_moe.experts.{}.w3.weight"),
        down="block_sparse_moe.experts.{}.w2.weight",
    ),
)
