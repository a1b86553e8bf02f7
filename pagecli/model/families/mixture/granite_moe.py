"""Granite 3 with experts: Granite's multipliers, gate and up of all experts in one tensor."""

from dataclasses import replace

from pagecli.model.decoder import Experts, Gguf, Key
from pagecli.model.families.llama.granite import GGUF_KEYS, GRANITE

GRANITE_MOE = replace(
    GRANITE,
    architectures=("GraniteMoeForCausalLM",),
    model_type="granitemoe",
    gguf=Gguf(
        name="granitemoe",
        interleaved=True,
        keys=GGUF_KEYS,
        tensors=(("block_sparse_moe.input_linear", ("mlp.experts.gate_proj", "mlp.experts.up_proj")),),
    ),
    renamed=(("num_local_experts", "num_experts"),),
    experts=Experts(
        size=Key("intermediate_size"),
        router="block_sparse_moe.router.layer.weight",
        normalized=True,
        up=("block_sparse_moe.input_linear.weight",),
        down="block_sparse_moe.output_linear.weight",
    ),
)
