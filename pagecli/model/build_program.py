"""From the description of an architecture and the sizes of one model to its program."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from pagecli.core.model_config import ModelConfig
from pagecli.model import families
from pagecli.model.alibi import slopes
from pagecli.model.build_mixture import added_scale, mixture
from pagecli.model.decoder import MLP, Decoder
from pagecli.model.decoder import Attention as AttentionPart
from pagecli.model.program import (
    Add,
    Attention,
    Embedding,
    GatedActivation,
    Head,
    Layout,
    Linear,
    Norm,
    Operation,
    Program,
    Rotary,
    Select,
    Split,
    Weight,
)

Compute = Callable[[str], list[Operation]]  # of the value it reads


@functools.lru_cache(maxsize=32)
def build(config: ModelConfig) -> Program:
    """The program of a model whose architecture is known (families.find)."""
    decoder = families.describe(config.architecture)
    layers = tuple(_layer(decoder, config, layer) for layer in range(config.num_layers))
    return Program(config, _embed(decoder, config), layers, _head(decoder, config))


def _embed(decoder: Decoder, config: ModelConfig) -> tuple[Operation, ...]:
    embedding, positions = decoder.embedding, decoder.embedding.positions
    table, scale = _embedding_weight(decoder, config), config.embedding_scale
    operations: list[Operation] = []
    if config.embedding_size == config.hidden_size:
        operations.append(Embedding("hidden", "token_ids", table, scale=scale))
    else:
        operations.append(Embedding("embedded", "token_ids", table, scale=scale))
        into = _matrix((embedding.project_in,), (config.hidden_size,), config.embedding_size)
        operations.append(Linear("hidden", "embedded", into))
    if positions is not None:
        table = _matrix((positions.name,), (config.max_positions + positions.offset,), config.hidden_size)
        operations += [Embedding("normed", "positions", table, positions.offset), Add("hidden", "normed")]
    if embedding.norm:
        operations.append(_norm(decoder, config, embedding.norm)("hidden", "hidden"))
    return tuple(operations)


def _layer(decoder: Decoder, config: ModelConfig, layer: int) -> tuple[Operation, ...]:
    if config.order in ("parallel", "parallel_norms"):
        return _parallel_layer(decoder, config, layer)
    attend, think = (functools.partial(compute, decoder, config, layer) for compute in (_attention, _think))
    attention = _part(decoder, config, layer, decoder.attention, "attention_out", attend)
    return (*attention, *_part(decoder, config, layer, decoder.mlp, "mlp_out", think))


def _part(
    decoder: Decoder, config: ModelConfig, layer: int, part: AttentionPart | MLP, out: str, compute: Compute
) -> list[Operation]:
    """Attention or MLP with the norms around it and its addition to the hidden states."""
    name, order = f"{decoder.layer}.{layer}", config.order
    before, after = order in ("pre", "sandwich"), order in ("sandwich", "output")
    norm = _norm(decoder, config, f"{name}.{part.norm}")
    operations: list[Operation] = [norm("normed", "hidden")] if before else []
    operations += compute("normed" if before else "hidden")
    if after:
        operations.append(_norm(decoder, config, f"{name}.{part.out_norm}", config.residual_scale)(out, out))
    operations.append(Add("hidden", out))
    if order == "post":
        operations.append(norm("hidden", "hidden"))
    return operations


def _parallel_layer(decoder: Decoder, config: ModelConfig, layer: int) -> tuple[Operation, ...]:
    """Attention and MLP of the same hidden states."""
    name, mlp_in = f"{decoder.layer}.{layer}", "normed"
    attention_norm, mlp_norm = decoder.attention.norm, decoder.mlp.norm
    if config.order == "parallel_norms":
        mlp_in = "mlp_normed"
        attention_norm, mlp_norm = decoder.attention.parallel_norm or attention_norm, decoder.mlp.parallel_norm or mlp_norm
    operations: list[Operation] = [_norm(decoder, config, f"{name}.{attention_norm}")("normed", "hidden")]
    if mlp_in != "normed":
        operations.append(_norm(decoder, config, f"{name}.{mlp_norm}")(mlp_in, "hidden"))
    operations += [*_attention(decoder, config, layer, "normed"), Add("hidden", "attention_out")]
    return (*operations, *_think(decoder, config, layer, mlp_in), Add("hidden", "mlp_out"))


def _attention(decoder: Decoder, config: ModelConfig, layer: int, x: str) -> list[Operation]:
    """attention_out = attention(x)"""
    attention, name = decoder.attention, f"{decoder.layer}.{layer}"
    rope, norms = config.rope_of(layer), _head_norms(decoder, config, name)
    operations: list[Operation] = [
        _qkv(decoder, config, layer, x),
        Split("q", "k", "v", "qkv", config.num_heads, config.num_kv_heads, config.head_dim),
    ]
    if not attention.qk_norm_rotated:
        operations += norms
    if rope is not None:
        by_factors = rope.scaling == "frequency_factors"
        factors = _vector("rope_freqs.weight", rope.rotary_dim // 2) if by_factors else None
        operations.append(Rotary("q", "k", rope, factors))
    if attention.qk_norm_rotated:
        operations += norms
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    falls = slopes(config.num_heads, scale if attention.alibi_scaled else 1.0) if config.alibi else ()
    sinks = _vector(f"{name}.{attention.sinks}", config.num_heads) if attention.sinks else None
    operations.append(
        Attention("attended", "q", "k", "v", layer, scale, config.window(layer), config.attention_cap, falls, sinks)
    )
    out = _linear(
        "attention_out", "attended", (f"{name}.{attention.out}",), (config.hidden_size,), config.q_size, config.out_bias
    )
    return [*operations, _into_hidden(decoder, config, out)]


def _qkv(decoder: Decoder, config: ModelConfig, layer: int, x: str) -> Linear:
    attention, name = decoder.attention, f"{decoder.layer}.{layer}"
    sizes = (config.q_size, config.kv_size, config.kv_size)
    rows = sizes if len(attention.qkv) == len(sizes) else (sum(sizes),)
    qkv = tuple(f"{name}.{part}" for part in attention.qkv)
    linear = _linear("qkv", x, qkv, rows, config.hidden_size, config.qkv_bias, split="rows")
    rope = config.rope_of(layer)
    if rope is None and config.trained_order is not None:  # GGUF's converter reorders rows of layers that rotate nothing too
        rope = config.rope
    pairs = (config.head_dim, rope.rotary_dim) if rope is not None and config.rope_interleaved else None
    heads = (config.num_kv_heads, config.num_heads // config.num_kv_heads + 2, config.head_dim) if config.grouped_qkv else None
    return _laid_out(linear, Layout(decoder.transposed, heads, pairs, config.q_size + config.kv_size if pairs else 0))


def _head_norms(decoder: Decoder, config: ModelConfig, name: str) -> list[Operation]:
    norms: list[Operation] = []
    attention = decoder.attention
    for value, part in zip(("q", "k"), attention.qk_norm or (), strict=False):
        size = config.head_dim if attention.qk_norm_heads else config.q_size if value == "q" else config.kv_size
        weight = Weight((f"{name}.{part}.weight",), (size,), offset=decoder.norm.offset)
        norms.append(Norm(value, value, "rms", config.norm_eps, weight))
    return norms


def _think(decoder: Decoder, config: ModelConfig, layer: int, x: str) -> list[Operation]:
    """mlp_out = MLP(x), or experts(x)"""
    if config.experts is None or not config.experts.sparse_layers[layer]:
        return _mlp(decoder, config, layer, x, decoder.mlp, config.intermediate_size)
    part = decoder.experts
    assert part is not None
    shared: list[Operation] = []
    if part.shared is not None:
        shared = _mlp(decoder, config, layer, x, part.shared, config.experts.shared_size, "shared_")
    return [*shared, *mixture(part, config, f"{decoder.layer}.{layer}", x)]


def _mlp(decoder: Decoder, config: ModelConfig, layer: int, x: str, mlp: MLP, size: int, prefix: str = "") -> list[Operation]:
    """mlp_out = MLP(x); `prefix`: of the names of its values"""
    name, hidden, bias = f"{decoder.layer}.{layer}", config.hidden_size, config.mlp_bias
    names, down = tuple(f"{name}.{part}" for part in mlp.up), (f"{name}.{mlp.down}",)
    inner, gate_up, out = f"{prefix}inner", f"{prefix}gate_up", f"{prefix}mlp_out"
    layout, operations = Layout(decoder.transposed), list[Operation]()
    if mlp.gated:
        rows = (size, size) if len(names) == 2 else (2 * size,)
        up = _linear(gate_up, x, names, rows, hidden, bias, split="rows")
        operations = [_laid_out(up, layout), GatedActivation(inner, gate_up, config.activation)]
    else:
        up = _linear(inner, x, names, (size,), hidden, bias, config.activation, split="rows")
        operations = [_laid_out(up, layout)]
    return [*operations, _into_hidden(decoder, config, _linear(out, inner, down, (hidden,), size, bias))]


def _into_hidden(decoder: Decoder, config: ModelConfig, linear: Linear) -> Linear:
    """What is added to the hidden states, scaled in its weights unless a norm on it is scaled instead."""
    scale = added_scale(config)
    weight = replace(linear.weight, split="columns", scale=scale)
    bias = None if linear.bias is None else replace(linear.bias, scale=scale)
    return _laid_out(replace(linear, weight=weight, bias=bias), Layout(decoder.transposed))


def _laid_out(linear: Linear, layout: Layout) -> Linear:
    if layout == Layout():
        return linear
    bias = None if linear.bias is None else replace(linear.bias, layout=replace(layout, transposed=False))
    return replace(linear, weight=replace(linear.weight, layout=layout), bias=bias)


def _head(decoder: Decoder, config: ModelConfig) -> tuple[Operation, ...]:
    last = "normed"
    operations: list[Operation] = [Select(last, "hidden")]
    if config.final_norm and config.order != "post":
        operations.append(_norm(decoder, config, decoder.final_norm, config.logits_scale)(last, last))
    if config.embedding_size != config.hidden_size:
        out_of = _matrix((decoder.embedding.project_out,), (config.embedding_size,), config.hidden_size)
        operations.append(Linear("embedded", last, out_of))
        last = "embedded"
    weight = _embedding_weight(decoder, config)
    if not config.tie_embeddings:
        weight = _matrix((decoder.head,), (config.vocab_size,), config.embedding_size, "rows")
    bias = Weight((f"{decoder.head}.bias",), (config.vocab_size,), split="rows") if decoder.head_bias else None
    return (*operations, Head(last, weight, bias, config.logits_cap))


def _embedding_weight(decoder: Decoder, config: ModelConfig) -> Weight:
    return _matrix((decoder.embedding.name,), (config.vocab_size,), config.embedding_size, "rows")


def _norm(decoder: Decoder, config: ModelConfig, name: str, scale: float = 1.0) -> "functools.partial[Norm]":
    """The norm of that name, its input and output not set yet, its outputs times `scale`."""
    weight = bias = None
    if config.norm_affine:
        weight = Weight((f"{name}.weight",), (config.hidden_size,), scale=scale, offset=decoder.norm.offset)
        bias = Weight((f"{name}.bias",), (config.hidden_size,), scale=scale) if decoder.norm.bias else None
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
