"""Wrong arguments: one message that names the argument, what it should be and what it is; nothing is read or written before."""

import re

import pytest
import torch
from paged_cases import PagedCase

from pagecli.devices.cpu import kernels

X, W = torch.ones(3, 8), torch.ones(8)
INT = torch.int32


def attention(dtype=torch.float32, **changes):
    paged = PagedCase([20, 5], dtype=dtype)
    names = ["q", "k_cache", "v_cache", "block_tables", "context_lens", "query_start", "scale", "window"]
    arguments = dict(zip(names, paged.arguments([(0, 17, 20), (1, 4, 5)]), strict=True))
    arguments |= {name: change(arguments[name]) if callable(change) else change for name, change in changes.items()}
    arguments.setdefault("out", torch.empty(4, 4, 64))
    return lambda: kernels.paged_attention(**arguments)


def at(index, value):
    """The tensor with one element changed."""

    def change(tensor):
        tensor = tensor.clone()
        tensor[index] = value
        return tensor

    return change


def int8_attention(change_k, change_v):
    return attention(torch.int8, k_cache=change_k, v_cache=change_v)


def store(slot_ids, dtype=torch.float32):
    caches = [torch.zeros(2, 1, *slots, dtype=dtype) for slots in ((32, 4), (4, 32))]
    return lambda: kernels.store_kv(*caches, torch.ones(1, 1, 32), torch.ones(1, 1, 32), slot_ids)


def rotary(positions=(0,), cos_sin=None, q=None):
    q = torch.ones(1, 2, 32) if q is None else q
    cos_sin = torch.ones(4, 32) if cos_sin is None else cos_sin
    return lambda: kernels.rotary_embedding(q, torch.ones(1, 1, 32), torch.tensor(positions, dtype=INT), cos_sin)


SHAPES = {
    "x: expected [tokens, dim], got [8]": lambda: kernels.rms_norm(X, W, W, 1e-5),
    "out: expected [3, 8], got [8, 3]": lambda: kernels.rms_norm(torch.ones(8, 3), X, W, 1e-5),
    "weight: expected [8], got [3]": lambda: kernels.rms_norm(X, X, torch.ones(3), 1e-5),
    "bias: expected [8], got [8, 1]": lambda: kernels.layer_norm(X, X, W, torch.ones(8, 1), 1e-5),
    "x: expected a contiguous last dimension, got strides [1, 3]": lambda: kernels.activation(X, torch.ones(8, 3).T, "relu"),
    "gate_up: expected [3, 16], got [3, 8]": lambda: kernels.gated_activation(X, X, "silu"),
    "activation: expected none, relu, gelu, gelu_tanh, silu or relu2, got tanh": lambda: kernels.activation(X, X, "tanh"),
    "x: expected at most 4 dimensions": lambda: kernels.rms_norm(X, torch.ones(1, 1, 1, 3, 8), W, 1e-5),
    "q: expected [tokens, heads, head_dim], got [2, 32]": rotary(q=torch.ones(2, 32)),
    "cos_sin: expected an even rotary_dim of at most 32, got 34": rotary(cos_sin=torch.ones(4, 34)),
    "positions[0]: expected 0 <= value < 4, got 4": rotary(positions=(4,)),
    "slot_ids[0]: expected 0 <= value < 8, got 8": store(torch.tensor([8])),
    "slot_ids[0]: expected 0 <= value < 8, got -1": store(torch.tensor([-1])),
    "q: expected [tokens, heads, 64], got [4, 4, 32]": attention(q=torch.ones(4, 4, 32)),
    "q: expected heads to be a multiple of kv_heads 2, got 3": attention(q=torch.ones(4, 3, 64), out=torch.ones(4, 3, 64)),
    "out: expected [4, 4, 64], got [4, 256]": attention(out=torch.ones(4, 256)),
    "k_cache: expected [num_blocks, kv_heads, head_dim, block_size], got [64]": attention(k_cache=torch.ones(64)),
    "v_cache: expected [5, 2, 16, 64], got [4, 2, 16, 64]": attention(v_cache=lambda v: v[1:]),
    "k_cache: expected a contiguous tensor, got strides [2048, 16, 32, 1]": attention(
        k_cache=lambda k: k.transpose(1, 2).contiguous().transpose(1, 2)
    ),
    "query_start: expected [3], got [2]": attention(query_start=lambda t: t[1:]),
    "query_start[1]: expected 0 to 4, got 5": attention(query_start=at(1, 5)),
    "query_start[2]: expected 3 to 4, got 2": attention(query_start=at(2, 2)),
    "query_start[0]: expected 0 or more, got -1": attention(query_start=at(0, -1)),
    "context_lens[0]: expected 3 (its queries) to 48 (its block table's slots), got 2": attention(context_lens=at(0, 2)),
    "context_lens[1]: expected 1 (its queries) to 48 (its block table's slots), got 49": attention(context_lens=at(1, 49)),
    "block_tables[0, 1]: expected a block below 5, got 5": attention(block_tables=at((0, 1), 5)),
    "block_tables[1, 0]: expected a block below 5, got -7": attention(block_tables=at((1, 0), -7)),
    "k_cache: expected head_dim + 4 bytes a slot (int8 and a scale), got 4": int8_attention(
        lambda k: k[:, :, :4].contiguous(), lambda v: v[..., :4].contiguous()
    ),
    "q: expected [tokens, heads, 60], got [4, 4, 64]": int8_attention(
        lambda k: k[:, :, :64].contiguous(), lambda v: v[..., :64].contiguous()
    ),
    "v_cache: expected [5, 2, 16, 68], got [5, 2, 16, 64]": int8_attention(lambda k: k, lambda v: v[..., :64].contiguous()),
    "k: expected [tokens, 1, 28], got [1, 1, 32]": store(torch.tensor([0]), torch.int8),
    "window: expected 0 (none) or more, got -1": attention(window=-1),
}

TYPES = {
    "x: expected float32, got bfloat16": lambda: kernels.rms_norm(X, X.bfloat16(), W, 1e-5),
    "weight: expected float32, got another dtype": lambda: kernels.rms_norm(X, X, W.double(), 1e-5),
    "x: expected an array or tensor, got list": lambda: kernels.rms_norm(X, [1.0], W, 1e-5),
    "x: expected a dense tensor on the CPU, got one whose memory cannot be lent": lambda: kernels.rms_norm(
        X, X.to_sparse(), W, 1e-5
    ),
    "slot_ids: expected int64, got int32": store(torch.tensor([0], dtype=INT)),
    "k_cache: expected float32 or bfloat16 or int8, got float16": attention(k_cache=lambda k: k.half()),
    "v_cache: expected int8, got float32": attention(k_cache=lambda k: k.to(torch.int8)),
    "v_cache: expected float32, got bfloat16": attention(v_cache=lambda v: v.bfloat16()),
    "block_tables: expected int32, got int64": attention(block_tables=lambda t: t.long()),
}


@pytest.mark.parametrize("message", SHAPES)
def test_wrong_shape_or_value(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SHAPES[message]()


@pytest.mark.parametrize("message", TYPES)
def test_wrong_type(message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        TYPES[message]()


def test_tensor_without_memory():
    with pytest.raises(TypeError, match="x: expected a dense tensor on the CPU"):
        kernels.rms_norm(X, X.to("meta"), W, 1e-5)


def test_empty_step():
    kernels.rms_norm(torch.empty(0, 8), torch.empty(0, 8), W, 1e-5)
    kernels.rotary_embedding(torch.empty(0, 2, 32), torch.empty(0, 1, 32), torch.empty(0, dtype=INT), torch.ones(4, 32))
    assert PagedCase([]).attend([]).shape == (0, 4, 64)
