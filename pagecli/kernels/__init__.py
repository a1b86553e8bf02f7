"""The operations the models are made of; `reference` says what each one means, shapes and types included.

In-place rule: an operation writes only into outputs it is given, allocates nothing and keeps nothing (`pack_weight` and
`pack_screen`, used at load, are the exceptions). Every operation runs natively; the plain torch versions are for tests and are
never chosen silently.
"""

from pagecli.kernels.native import (
    LayerProgram,
    activation,
    argmax,
    copy_blocks,
    embedding,
    gated_activation,
    isa_name,
    layer_norm,
    linear,
    linear_argmax,
    pack_screen,
    pack_weight,
    paged_attention,
    rms_norm,
    rotary_embedding,
    sample,
    set_num_threads,
    store_kv,
    supported_isas,
)
from pagecli.kernels.packed_weight import PackedWeight
from pagecli.kernels.screen import Screen

__all__ = [
    "LayerProgram",
    "PackedWeight",
    "Screen",
    "activation",
    "argmax",
    "copy_blocks",
    "embedding",
    "gated_activation",
    "isa_name",
    "layer_norm",
    "linear",
    "linear_argmax",
    "pack_screen",
    "pack_weight",
    "paged_attention",
    "rms_norm",
    "rotary_embedding",
    "sample",
    "set_num_threads",
    "store_kv",
    "supported_isas",
]
