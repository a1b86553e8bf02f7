"""From the description of an architecture and the sizes of one model to its program."""

import functools
from typing import Literal

from pagecli.core.model_config import ModelConfig
from pagecli.model import families
from pagecli.model.decoder import Decoder
from pagecli.model.program import (
    Add,
    Attention,
    Embedding,
    GatedActivation,
    Head,
    Linear,
    Norm,
    Operation,
    Program,
    Rotary,
    Select,
    Split,
    Weight,
)


@functools.lru_cache(maxsize=32)
def build(config: ModelConfig) -> Program:
    """The program of a model whose architecture is known (families.find)."""
    decoder = families.describe(config.architecture)
    layers = tuple(_layer(decoder, config, layer) for layer in range(config.num_layers))
    return Program(config, _embed(decoder, config), layers, _head(decoder, config))


def _embed(decoder: Decoder, config: ModelConfig) -> tuple[Operation, ...]:
    embedding, positions = decoder.embedding, decoder.embedding.positions
    operations: list[Operation] = []
    if config.embedding_size == config.hidden_size:
        operations.append(Embedding("hidden", "token_ids", _embedding_weight(decoder, config)))
    else:
        operations.append(Embedding("embedded", "token_ids", _embedding_weight(decoder, config)))
        into = _matrix((embedding.project_in,), (config.hidden_size,), config.embedding_size)
        operations.append(Linear("hidden", "embedded", into))
    if positions is not None:
        table = _matrix((positions.name,), (config.max_positions + positions.offset,), config.hidden_size)
        operations += [Embedding("normed", "positions", table, positions.offset), Add("hidden", "normed")]
    return tuple(operations)


def _layer(decoder: Decoder, config: ModelConfig, layer: int) -> tuple[Operation, ...]:
    name = f"{decoder.layer}.{layer}"
    attention_norm = _norm(decoder, config, f"{name}.{decoder.attention.norm}")
    mlp_norm = _norm(decoder, config, f"{name}.{decoder.mlp.norm}")
    post = config.order == "post"
    x = "hidden" if post else "normed"
    operations: list[Operation] = [] if post else [attention_norm("normed", "hidden")]
    operations += [*_attention(decoder, config, layer, x), Add("hidden", "attention_out")]
    if post:
        operations.append(attention_norm("hidden", "hidden"))
    elif config.order == "pre":
        operations.append(mlp_norm("normed", "hidden"))
    operations += [*_mlp(decoder, config, layer, x), Add("hidden", "mlp_out")]
    if post:
        operations.append(mlp_norm("hidden", "hidden"))
    return tuple(operations)


def _attention(decoder: Decoder, config: ModelConfig, layer: int, x: str) -> list[Operation]:
    """attention_out = attention(x)"""
    attention, name = decoder.attention, f"{decoder.layer}.{layer}"
    sizes = (config.q_size, config.kv_size, config.kv_size)
    rows = sizes if len(attention.qkv) == len(sizes) else (sum(sizes),)
    qkv = tuple(f"{name}.{part}" for part in attention.qkv)
    operations: list[Operation] = [
        _linear("qkv", x, qkv, rows, config.hidden_size, config.qkv_bias, split="rows"),
        Split("q", "k", "v", "qkv", config.num_heads, config.num_kv_heads, config.head_dim),
    ]
    if attention.qk_norm is not None:
        for value, part in zip(("q", "k"), attention.qk_norm, strict=True):
            operations.append(Norm(value, value, "rms", config.norm_eps, _vector(f"{name}.{part}.weight", config.head_dim)))
    if config.rope is not None:
        by_factors = config.rope.scaling == "frequency_factors"
        factors = _vector("rope_freqs.weight", config.rope.rotary_dim // 2) if by_factors else None
        operations.append(Rotary("q", "k", config.rope, config.max_positions, factors))
    operations.append(Attention("attended", "q", "k", "v", layer, config.head_dim**-0.5, config.window(layer)))
    out = (f"{name}.{attention.out}",)
    operations.append(
        _linear("attention_out", "attended", out, (config.hidden_size,), config.q_size, config.out_bias, split="columns")
    )
    return operations


def _mlp(decoder: Decoder, config: ModelConfig, layer: int, x: str) -> list[Operation]:
    """mlp_out = MLP(x)"""
    mlp, name, size, hidden = decoder.mlp, f"{decoder.layer}.{layer}", config.intermediate_size, config.hidden_size
    up, down = tuple(f"{name}.{part}" for part in mlp.up), (f"{name}.{mlp.down}",)
    operations: list[Operation]
    if mlp.gated:
        rows = (size, size) if len(up) == 2 else (2 * size,)
        operations = [
            _linear("gate_up", x, up, rows, hidden, config.mlp_bias, split="rows"),
            GatedActivation("inner", "gate_up", config.activation),
        ]
    else:
        operations = [_linear("inner", x, up, (size,), hidden, config.mlp_bias, config.activation, split="rows")]
    return [*operations, _linear("mlp_out", "inner", down, (hidden,), size, config.mlp_bias, split="columns")]


def _head(decoder: Decoder, config: ModelConfig) -> tuple[Operation, ...]:
    last = "normed"
    operations: list[Operation] = [Select(last, "hidden")]
    if config.final_norm and config.order != "post":
        operations.append(_norm(decoder, config, decoder.final_norm)(last, last))
    if config.embedding_size != config.hidden_size:
        out_of = _matrix((decoder.embedding.project_out,), (config.embedding_size,), config.hidden_size)
        operations.append(Linear("embedded", last, out_of))
        last = "embedded"
    weight = _embedding_weight(decoder, config)
    if not config.tie_embeddings:
        weight = _matrix((decoder.head,), (config.vocab_size,), config.embedding_size, "rows")
    return (*operations, Head(last, weight))


def _embedding_weight(decoder: Decoder, config: ModelConfig) -> Weight:
    return _matrix((decoder.embedding.name,), (config.vocab_size,), config.embedding_size, "rows")


def _norm(decoder: Decoder, config: ModelConfig, name: str) -> "functools.partial[Norm]":
    """The norm of that name, its input and output not set yet."""
    weight = bias = None
    if config.norm_affine:
        weight = _vector(f"{name}.weight", config.hidden_size)
        bias = _vector(f"{name}.bias", config.hidden_size) if decoder.norm.bias else None
    return functools.partial(Norm, kind=decoder.norm.kind, eps=config.norm_eps, weight=weight, bias=bias)


def _linear(
    out: str,
    x: str,
    names: tuple[str, ...],
    rows: tuple[int, ...],
    columns: int,
    bias: bool,
    activation: str = "none",
    split: Literal["rows", "columns"] | None = None,
) -> Linear:
    own_bias = None
    if bias:  # of a weight that ranks share by columns, each rank has the whole: one of them adds it
        own_bias = Weight(tuple(f"{name}.bias" for name in names), rows, split="rows" if split == "rows" else None)
    return Linear(out, x, _matrix(names, rows, columns, split), own_bias, activation)


def _matrix(
    names: tuple[str, ...], rows: tuple[int, ...], columns: int, split: Literal["rows", "columns"] | None = None
) -> Weight:
    return Weight(tuple(f"{name}.weight" for name in names), rows, columns, split)


def _vector(name: str, size: int) -> Weight:
    return Weight((name,), (size,))
