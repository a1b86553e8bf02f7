"""Attention of prompts without a cached prefix, by torch's own FlashAttention (torch.nn.attention.varlen, torch 2.10).

Off unless PAGECLI_VARLEN_ATTN=1: it has run on no GPU here, and a prompt that steps compute in chunks has its first by it and
the others by the own kernels, so that last bits depend on where a prompt is cut. What it reads are the rows of the step, not
the cache, but for keys, which rotation wrote there, and where the cache rounds.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch

from pagecli.devices.cuda.kernels import raw

SWITCH = "PAGECLI_VARLEN_ATTN"


def is_on(dtype: torch.dtype) -> bool:
    """Whether models of this type use it: tensor cores have none of float32."""
    return os.environ.get(SWITCH) == "1" and dtype in (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Rows of a step that are whole prompts, one behind the other."""

    sequences: slice
    rows: slice
    longest: int


def whole_prompts(context_lens: np.ndarray, query_start: np.ndarray) -> PromptRows | None:
    """Of a step's longest run of sequences with several tokens and none before them; None where it has none."""
    num_queries = np.diff(query_start)
    is_whole = (num_queries > 1) & (num_queries == context_lens[: len(num_queries)])
    edges = np.flatnonzero(np.diff(is_whole, prepend=False, append=False))
    runs = [
        (int(query_start[end] - query_start[first]), first, end) for first, end in zip(edges[::2], edges[1::2], strict=True)
    ]
    if not runs:
        return None
    _, first, end = max(runs, key=lambda run: run[0])
    rows = slice(int(query_start[first]), int(query_start[end]))
    return PromptRows(slice(int(first), int(end)), rows, int(num_queries[first:end].max()))


def varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, scale: float, window: int
) -> torch.Tensor:
    """[rows, heads, D]: causal attention of sequences of their own, from q [rows, heads, D] and k, v [rows, kv_heads, D];
    starts [n + 1] int32: their first rows; window: tokens seen, the token itself included, or 0. `num_splits=1`: the same bits
    whatever else is in the batch."""
    from torch.nn.attention.varlen import varlen_attn

    seen = (window - 1 if window > 0 else -1, 0)
    attended = varlen_attn(
        q,
        k,
        v,
        starts,
        starts,
        longest,
        longest,
        scale=scale,
        window_size=seen,
        enable_gqa=q.shape[1] != k.shape[1],
        num_splits=1,
    )
    assert isinstance(attended, torch.Tensor)
    return attended


def cached(cache: torch.Tensor, slot_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, kv_heads, D]: what is in these slots of a cache [blocks, kv_heads, block_size, D], in this type."""
    block_size = cache.shape[2]
    return raw(cache)[slot_ids // block_size, :, slot_ids % block_size].view(cache.dtype).to(dtype)
