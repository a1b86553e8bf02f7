"""The description of a decoder-only architecture: its layers, the keys of config.json it reads, the names of its tensors.

A family file (model/families) holds nothing else: no device, no rank, no dtype. `model/program.py` turns a description and the
sizes of one model into operations, which devices execute. Where a field is a Key, the model's own config.json decides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from pagecli.core.model_config import Order

NormKind = Literal["rms", "layer"]
REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of config.json and its default where it is left out (None: see the field; REQUIRED: an error)."""

    name: str
    default: Any = REQUIRED
    values: tuple[tuple[Any, Any], ...] = ()  # (value in config.json, value of the field); empty: the value itself
    of: Callable[[float], float] | None = None  # of a number: what is made of it


def inverse(value: float) -> float:
    return 1 / value


def inverse_sqrt(value: float) -> float:
    return value**-0.5


SQRT_HIDDEN = Key("hidden_size", of=math.sqrt)


@dataclass(frozen=True, slots=True)
class LearnedPositions:
    """A table of positions that is added to the embedded tokens."""

    name: str
    offset: int = 0  # rows of the table before that of position 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Tokens embedded, and what is done with the rows before the first layer."""

    name: str = "model.embed_tokens"
    size: Key | None = None  # of a token's row; None: hidden_size
    project_in: str = ""  # linear layers around the decoder where that size is not hidden_size
    project_out: str = ""
    positions: LearnedPositions | None = None
    scale: Key | float = 1.0  # of the embedded tokens
    norm: str = ""  # of the embedded tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Sliding windows: how many tokens a token sees, itself included, in the layers that slide: those that layer_types names
    or, where that is left out, by `pattern` or from `first` on."""

    size: Key = Key("sliding_window", 4096)  # null: no layer slides
    enabled: Key | bool = True
    first: Key | int = 0
    pattern: Key | int = 0  # every so manieth layer sees everything; 0: see `first`


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary embedding of the queries and keys of the layers that have it."""

    theta: float = 10000.0  # where config.json gives no rope_theta
    dim: Key | None = None  # rotated dimensions of a head; None: by `part`
    part: Key | None = None  # of a head that is rotated; None: all of it
    interleaved: bool = False  # pairs lie side by side in a head, not half of its rotated part apart
    layers: Literal["all", "no_rope_layers", "sliding"] = "all"  # sliding: all of a model without windows
    local: Key | None = None  # rope_theta of the layers that slide, which are not scaled; None: as the others
    query_scale: str = ""  # key of rope_parameters: queries beyond the original context, which is not offered, are scaled by it
    scaled: Literal["all", "full"] = "all"  # full: rope_scaling is of the layers that do not slide


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attention of a layer: its tensors, norms, heads and positions."""

    norm: str = "input_layernorm"
    parallel_norm: str = ""  # of the order parallel_norms, where it has a name of its own
    out_norm: str = "post_attention_layernorm"  # of the orders sandwich and output
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # or one tensor that holds all rows
    grouped: Key | bool = False  # rows of the one tensor: KV head by KV head its queries, its key, its value
    out: str = "self_attn.o_proj"
    qkv_bias: Key | bool = False
    out_bias: Key | bool = False
    qk_norm: tuple[str, str] | None = None  # RMS norms of queries and keys, before they are rotated
    qk_norm_heads: bool = True  # of each head; False: of all heads together
    qk_norm_rotated: bool = False  # after the rotation
    rotary: Rotary | None = Rotary()
    alibi: Key | bool = False  # Press et al., 2022
    alibi_scaled: bool = False  # by the scale of the scores too
    window: Window | None = None
    num_kv_heads: Key = Key("num_key_value_heads", None)  # None: as many as query heads
    head_dim: Key | None = Key("head_dim", None)  # None: hidden_size / query heads
    scale: Key | None = None  # of the scores; None: head_dim ** -0.5
    cap: Key | None = None  # soft cap of the scores
    sinks: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """down(activation(gate(x)) * up(x)) or, not gated, down(activation(up(x)))."""

    norm: str = "post_attention_layernorm"
    parallel_norm: str = ""
    out_norm: str = "post_feedforward_layernorm"  # of the orders sandwich and output
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")  # or one tensor that holds the gate's rows, then the others
    down: str = "mlp.down_proj"
    gated: bool = True
    size: Key = Key("intermediate_size")  # None: 4 * hidden_size
    activation: Key = Key("hidden_act", "silu")
    bias: Key | bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the MLP, in some layers: each token goes to the few that a router chooses, weighted by
    the softmax of its logits. Names here are whole; "{}" stands for an expert's number, without it one tensor holds all."""

    num: Key = Key("num_experts")
    chosen: Key = Key("num_experts_per_tok")
    size: Key = Key("moe_intermediate_size")
    router: str = "mlp.gate.weight"
    router_bias: str = ""
    normalized: Key | bool = Key("norm_topk_prob", False)  # the weights of the chosen add up to 1
    up: tuple[str, ...] = ("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight")
    up_bias: str = ""
    interleaved: bool = False  # rows of gate and up side by side in the one tensor
    down: str = "mlp.experts.{}.down_proj.weight"
    transposed: bool = False  # matrices lie as [inputs, outputs]
    down_bias: str = ""
    shared: MLP | None = None  # beside them, of every token
    shared_gate: str = ""  # whose sigmoid scales that one
    every: Key | int = 1  # so manieth layer has experts; others an MLP
    dense: Key | None = None  # the numbers of other layers without
    limit: Key | None = None  # gates and ups are clamped by it, gate * sigmoid(alpha * gate) * (up + 1)
    alpha: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """The norms of all layers and the final one."""

    kind: NormKind = "rms"
    eps: Key | float = Key("rms_norm_eps", 1e-6)
    affine: Key | bool = True  # False: no weight, no bias
    bias: bool = False  # of layer norms
    offset: float = 0.0  # added to every weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """How llama.cpp writes the architecture."""

    name: str
    interleaved: bool = False  # rotated pairs side by side in the rows of Q and K, not half a head apart
    keys: tuple[tuple[str, str], ...] = ()  # (key of the file behind the architecture's name, key of config.json)
    implied: tuple[tuple[str, Any], ...] = ()  # keys of config.json that every file of the architecture means
    # Modules of a layer in whose place the file has others, whose rows follow each other; where there are any, every parameter
    # is a weight or a bias there.
    tensors: tuple[tuple[str, tuple[str, ...]], ...] = ()
    # Numbers of layers of the models whose query_pre_attn_scalar is hidden_size / heads, not the head's size.
    scaled_by_hidden: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One architecture; names of tensors without ".weight" and ".bias", those of a layer behind `layer` and its number."""

    architectures: tuple[str, ...]  # as config.json names it
    model_type: str = ""  # the same where config.json names no architecture
    wrappers: tuple[str, ...] = ()  # architectures around it: its keys are under text_config, "language_model." is in its names
    gguf: Gguf | None = None
    defaults: tuple[tuple[str, Any], ...] = ()  # keys of config.json that are left out
    renamed: tuple[tuple[str, str], ...] = ()  # (key of config.json, the name it usually has)
    derived: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # keys that are made of several
    transposed: bool = False  # linear weights lie as [inputs, outputs]
    embedding: Embedding = Embedding()
    layer: str = "model.layers"
    attention: Attention = Attention()
    mlp: MLP = MLP()
    experts: Experts | None = None
    norm: Norm = Norm()
    # Where a layer's norms stand, in the order of core/model_config.Order: before attention and before the MLP, whose outputs
    # are added to the hidden states; after each of these additions; before each and on its output, ahead of the addition; on
    # each output alone; once, before attention and MLP side by side; or before each of these two.
    order: Key | Order = "pre"
    residual_scale: Key | float = 1.0  # of what attention and MLP add to the hidden states
    final_norm: str = "model.norm"  # after the last layer, unless the order is post
    has_final_norm: Key | bool = True
    head: str = "lm_head"
    head_bias: bool = False
    logits_scale: Key | float = 1.0
    logits_cap: Key | None = None  # soft cap of the logits
    tie_embeddings: Key | bool = Key("tie_word_embeddings", False)
    max_positions: Key = Key("max_position_embeddings", 2048)
