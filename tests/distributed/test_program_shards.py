"""Shards of a program: pure arithmetic. Every number of every weight is on the ranks it belongs to, and nowhere else."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pagecli.core.model_config import ModelConfig, RopeConfig
from pagecli.errors import UsageError
from pagecli.model.build_program import build
from pagecli.model.program import Head, Linear, Reduce, Split
from pagecli.model.shards import check_divides, segment, shard, vocab_start


def config_of(heads, kv_heads, dim, inner, hidden, vocab, architecture="LlamaForCausalLM", bias=True):
    opt = architecture == "OPTForCausalLM"
    return ModelConfig(
        architecture=architecture, vocab_size=vocab, hidden_size=hidden, embedding_size=hidden, intermediate_size=inner,
        num_layers=2, num_heads=heads, num_kv_heads=heads if opt else kv_heads, head_dim=dim, max_positions=64, norm_eps=1e-5,
        activation="relu" if opt else "silu", tie_embeddings=opt, dtype_hint="float32", qkv_bias=bias, out_bias=bias,
        mlp_bias=bias, rope=None if opt else RopeConfig(1e4, dim),
    )  # fmt: skip


@st.composite
def cut_models(draw):
    """(config, ranks, segments) that fit each other."""
    size = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    segments = size * draw(st.sampled_from([1, 2]))
    kv_heads = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    assume(all(kv_heads % count == 0 or count % kv_heads == 0 for count in (size, segments)))  # as check_divides
    heads = kv_heads * segments * draw(st.integers(1, 2))
    inner = segments * draw(st.integers(1, 5))
    architecture = draw(st.sampled_from(["LlamaForCausalLM", "OPTForCausalLM"]))
    return (
        config_of(heads, kv_heads, 4, inner, draw(st.integers(4, 20)), draw(st.integers(8, 40)), architecture),
        size,
        segments,
    )


def numbers_of(weight):
    """(tensor, row, column) of every number."""
    columns = range(weight.first_column, weight.first_column + (weight.columns or 1))
    for index, (name, rows) in enumerate(zip(weight.names, weight.rows, strict=True)):
        first = weight.first_rows[index] if weight.first_rows else 0
        yield from ((name, row, column) for row in range(first, first + rows) for column in columns)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(cut_models())
def test_every_number_of_a_shared_weight_is_on_one_rank_and_kv_heads_on_those_that_need_them(cut):
    config, size, segments = cut
    check_divides(config, segments, "float32", "--sum-segments")
    whole = build(config)
    ranks = [shard(segment(whole, segments), rank, size) for rank in range(size)]
    copies = Counter(number for program in ranks for w in program.weights() if w.split for number in set(numbers_of(w)))
    replicas = max(1, size // config.num_kv_heads)
    embedding = {weight for weight in whole.weights() if "embed" in weight.names[0]}
    for weight in whole.weights():
        if weight.split is None or weight in embedding:
            continue
        for name, row, column in numbers_of(weight):
            is_kv = "k_proj" in name or "v_proj" in name
            assert copies[name, row, column] == (replicas if is_kv else 1), (name, row, column)
    for program in ranks:  # what is not shared is whole everywhere
        assert {w for w in whole.weights() if w.split is None and w.columns == 0 and "bias" not in w.names[0]} <= set(
            program.weights()
        )


@settings(max_examples=40, deadline=None)
@given(cut_models(), st.integers(0, 2**32))
def test_ranks_together_compute_the_whole_products(cut, seed):
    """Each rank's rows are those of the whole product; the partial sums of all ranks are the product that sums over them."""
    config, size, segments = cut
    whole, random = build(config), np.random.Generator(np.random.PCG64(seed))
    tensors: dict = {}

    def tensor(weight):
        parts, shapes = [], dict(zip(weight.whole.names, weight.whole.shapes, strict=True))
        for index, name in enumerate(weight.names):
            if name not in tensors:
                tensors[name] = random.integers(-4, 5, shapes[name]).astype(np.float64)
            first = weight.first_rows[index] if weight.first_rows else 0
            part = tensors[name][first : first + weight.rows[index]]
            parts.append(part[:, weight.first_column : weight.first_column + weight.columns] if weight.columns else part)
        return np.concatenate(parts)

    def product(operation, x):
        columns = x[:, operation.first_column : operation.first_column + operation.weight.columns]
        return columns @ tensor(operation.weight).T + (0 if operation.bias is None else tensor(operation.bias))

    x = random.integers(-4, 5, (3, config.hidden_size)).astype(np.float64)
    ranks = [shard(segment(whole, segments), rank, size) for rank in range(size)]
    for name in ("attention_out", "mlp_out"):
        linear = next(op for op in whole.layers[0] if isinstance(op, Linear) and op.out == name)
        inner = random.integers(-4, 5, (3, linear.weight.columns)).astype(np.float64)
        parts: dict = {}
        for rank, program in enumerate(ranks):
            share = np.split(inner, size, axis=1)[rank]
            for op in program.layers[0]:
                if isinstance(op, Linear) and op.out.startswith(f"{name}."):
                    assert op.out not in parts
                    parts[op.out] = product(op, share)
        if segments == 1:
            continue
        reduce = next(op for op in ranks[0].layers[0] if isinstance(op, Reduce) and op.out == name)
        assert np.array_equal(sum(parts[part] for part in reduce.parts), product(linear, inner))
    heads = next(op for op in whole.head if isinstance(op, Head))
    logits = [x @ tensor(op.weight).T for program in ranks for op in program.head if isinstance(op, Head)]
    assert np.array_equal(np.concatenate(logits, axis=1), x @ tensor(heads.weight).T)
    assert [part.shape[1] for part in logits] == [
        vocab_start(config.vocab_size, rank + 1, size) - vocab_start(config.vocab_size, rank, size) for rank in range(size)
    ]
    qkv = next(op for op in whole.layers[0] if isinstance(op, Linear) and op.out == "qkv")
    split = next(op for op in whole.layers[0] if isinstance(op, Split))
    all_heads = product(qkv, x).reshape(3, -1, split.head_dim)
    for rank, program in enumerate(ranks):
        own = next(op for op in program.layers[0] if isinstance(op, Split))
        rows = product(next(op for op in program.layers[0] if isinstance(op, Linear) and op.out == "qkv"), x)
        found, group = rows.reshape(3, -1, split.head_dim), split.heads // split.kv_heads
        for head in range(own.heads):
            index = rank * own.heads + head
            assert np.array_equal(found[:, head], all_heads[:, index])
            of_group, own_group = index // group, head // (own.heads // own.kv_heads)
            for offset, own_offset in ((split.heads, own.heads), (split.heads + split.kv_heads, own.heads + own.kv_heads)):
                assert np.array_equal(found[:, own_offset + own_group], all_heads[:, offset + of_group])


@pytest.mark.parametrize(
    ("size", "dtype", "says"),
    [(3, "float32", "numbers that do: 1, 2, 4"), (5, "bfloat16", "4 heads"), (4, "int8", "whole groups of 64")],
)
def test_size_that_does_not_divide_is_said_with_those_that_do(size, dtype, says):
    with pytest.raises(UsageError) as caught:
        check_divides(config_of(4, 2, 32, 256, 128, 100), size, dtype, "--tensor-parallel-size")
    assert says in caught.value.one_line


def test_where_no_size_divides_it_is_said_what_to_do():
    with pytest.raises(UsageError, match="160 inner features, in whole groups of 64") as caught:
        check_divides(config_of(4, 2, 32, 160, 128, 100), 2, "int8", "--sum-segments")
    assert caught.value.hint == "no number does: leave the flag out, or take another --dtype"


def test_program_of_one_segment_is_the_program():
    program = build(config_of(4, 2, 32, 256, 128, 100))
    assert segment(program, 1) is program
    assert shard(program, 0, 1) is program
