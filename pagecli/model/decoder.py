"""The description of a decoder-only architecture: its layers, the keys of config.json it reads, the names of its tensors.

A family file (model/families) holds nothing else: no device, no rank, no dtype. `model/program.py` turns a description and the
sizes of one model into operations, which devices execute. Where a field is a Key, the model's own config.json decides.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

NormKind = Literal["rms", "layer"]
# Where a layer's norms stand: before attention and before the MLP, whose outputs are added to the hidden states; after each of
# these additions; or once, before attention and MLP side by side.
Order = Literal["pre", "post", "parallel"]
REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of config.json and its default where it is left out (None: see the field; REQUIRED: an error)."""

    name: str
    default: Any = REQUIRED
    values: tuple[tuple[Any, Any], ...] = ()  # (value in config.json, value of the field); empty: the value itself


@dataclass(frozen=True, slots=True)
class LearnedPositions:
    """A table of positions that is added to the embedded tokens."""

    name: str
    offset: int = 0  # rows of the table before that of position 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    name: str = "model.embed_tokens"
    size: Key | None = None  # of a token's row; None: hidden_size
    project_in: str = ""  # linear layers around the decoder where that size is not hidden_size
    project_out: str = ""
    positions: LearnedPositions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Sliding windows: how many tokens a token sees, itself included, in the layers that slide."""

    size: Key = Key("sliding_window", 4096)  # null: no layer slides
    enabled: Key | bool = True
    first: Key | int = 0  # where layer_types is left out: the layers from this one on slide


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # or one tensor that holds all rows
    out: str = "self_attn.o_proj"
    qkv_bias: Key | bool = False
    out_bias: Key | bool = False
    qk_norm: tuple[str, str] | None = None  # RMS norms of each query and key head, before they are rotated
    rotary: bool = True
    window: Window | None = None
    num_kv_heads: Key = Key("num_key_value_heads", None)  # None: as many as query heads
    head_dim: Key | None = Key("head_dim", None)  # None: hidden_size / query heads


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """down(activation(gate(x)) * up(x)) or, not gated, down(activation(up(x)))."""

    norm: str = "post_attention_layernorm"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")  # or one tensor that holds the gate's rows, then the others
    down: str = "mlp.down_proj"
    gated: bool = True
    size: Key = Key("intermediate_size")
    activation: Key = Key("hidden_act", "silu")
    bias: Key | bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    kind: NormKind = "rms"
    eps: Key | float = Key("rms_norm_eps", 1e-6)
    affine: Key | bool = True  # False: no weight, no bias
    bias: bool = False  # of layer norms


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """How llama.cpp writes the architecture."""

    name: str
    interleaved: bool = False  # rotated pairs side by side in the rows of Q and K, not half a head apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One architecture; names of tensors without ".weight" and ".bias", those of a layer behind `layer` and its number."""

    architectures: tuple[str, ...]  # as config.json names it
    model_type: str = ""  # the same where config.json names no architecture
    gguf: Gguf | None = None
    embedding: Embedding = Embedding()
    layer: str = "model.layers"
    attention: Attention = Attention()
    mlp: MLP = MLP()
    norm: Norm = Norm()
    order: Key | Order = "pre"
    final_norm: str = "model.norm"  # after the last layer, unless the order is post
    has_final_norm: Key | bool = True
    head: str = "lm_head"
    tie_embeddings: Key | bool = Key("tie_word_embeddings", False)
    max_positions: Key = Key("max_position_embeddings", 2048)
