"""Paged attention on the GPU: a step's plan, made on the host and used by every layer, and the two kernels that follow it.

A sequence with one new token is decoded (its context cut into runs that are computed side by side, where that pays); one with
more is prefilled in tiles. float32, which the tensor cores do not take, decodes every row by itself: for checking only.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pagecli.kernels.cuda import extension

TILE_ROWS = 64  # query rows of a prefill tile
BLOCKS_PER_MULTIPROCESSOR = 3  # thread blocks of decode that run at once; their staging memory is 64 KiB each


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What of the model and the machine a plan depends on."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    multiprocessors: int

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Tables of a step's work (csrc/include/pagecli/cuda/paged_attention.h), on the device; window as in `reference`."""

    runs: torch.Tensor  # [runs, 5] int32: sequence, row, first key, end key, partial
    merges: torch.Tensor  # [merges, 3] int32: row, first partial, number of partials
    tiles: torch.Tensor  # [tiles, 2] int32: sequence, first row
    context_lens: torch.Tensor  # [S] int32
    query_start: torch.Tensor  # [S + 1] int32
    partial_out: torch.Tensor  # [partials, heads, head_dim] float32
    partial_stats: torch.Tensor  # [partials, heads, 2] float32
    window: int


def plan_attention(
    context_lens: np.ndarray,
    query_start: np.ndarray,
    shape: AttentionShape,
    device: torch.device,
    window: int = 0,
    max_runs: int | None = None,
) -> AttentionPlan:
    """Plan a step of S sequences: context_lens[S], query_start[S + 1], int32 (as in `reference.paged_attention`).

    max_runs: exactly this many entries in `runs`, the unused ones padding, and as many `merges`: a fixed shape for a graph that
    decodes. It must be at least the number of sequences.
    """
    num_queries = np.diff(query_start).astype(np.int32)
    decoded = num_queries == 1 if shape.dtype != torch.float32 else num_queries > 0
    rows = _decode_rows(context_lens, query_start, np.flatnonzero(decoded), window)
    runs, merges, num_partials = _cut(rows, shape, max_runs)
    tiled = np.flatnonzero((num_queries > 0) & ~decoded).astype(np.int32)
    num_tiles = int((-(-num_queries[tiled].astype(np.int64) * shape.group // TILE_ROWS)).sum())
    tiles = _table(num_tiles, 2)
    extension().cut_into_tiles(tiled, num_queries[tiled], context_lens[tiled].astype(np.int32), shape.group, tiles.numpy())
    return AttentionPlan(
        runs=runs.to(device),
        merges=merges.to(device),
        tiles=tiles.to(device),
        context_lens=torch.from_numpy(context_lens).to(device),
        query_start=torch.from_numpy(query_start).to(device),
        partial_out=torch.empty(num_partials, shape.heads, shape.head_dim, dtype=torch.float32, device=device),
        partial_stats=torch.empty(num_partials, shape.heads, 2, dtype=torch.float32, device=device),
        window=window,
    )


def _table(num_rows: int, width: int) -> torch.Tensor:
    return torch.empty(num_rows, width, dtype=torch.int32)


def _decode_rows(context_lens: np.ndarray, query_start: np.ndarray, sequences: np.ndarray, window: int) -> np.ndarray:
    """[rows, 4] int32: sequence, row, first key, end key of every query of `sequences`."""
    lengths = query_start[sequences + 1] - query_start[sequences]
    owner = np.repeat(sequences, lengths)
    row = np.concatenate([np.arange(query_start[s], query_start[s + 1]) for s in sequences]) if len(sequences) else owner
    end = context_lens[owner] - (query_start[owner + 1] - row) + 1
    first = np.maximum(0, end - window) if window > 0 else np.zeros_like(end)
    return np.stack([owner, row, first, end], axis=1).astype(np.int32)


def _cut(rows: np.ndarray, shape: AttentionShape, max_runs: int | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Runs, merges and the number of partial results of decode rows."""
    num_keys = np.ascontiguousarray(rows[:, 3] - rows[:, 2])
    slots = shape.multiprocessors * BLOCKS_PER_MULTIPROCESSOR
    unlimited = max_runs is None
    limit = len(rows) + 64 * slots if max_runs is None else max_runs
    length = extension().choose_run_length(num_keys, shape.kv_heads, slots, limit)
    counts = -(-num_keys // length)
    num_runs, num_merges = int(counts.sum()), int((counts > 1).sum())
    if max_runs is not None and num_runs > max_runs:
        raise ValueError(f"{num_runs} decode rows do not fit into {max_runs} runs")
    runs = _table(num_runs if unlimited else limit, 5)
    merges = _table(num_merges if unlimited else limit, 3)
    return runs, merges, extension().cut_into_runs(rows, length, runs.numpy(), merges.numpy())


def paged_attention(
    out: torch.Tensor,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    plan: AttentionPlan,
    scale: float,
) -> None:
    """`reference.paged_attention` of the step that `plan` was made for; caches' block size is a power of two."""
    module = extension()
    tensors = (out, q, k_cache, v_cache, block_tables, scale)
    if plan.runs.shape[0] > 0:
        module.paged_attention_decode(*tensors, plan.runs, plan.merges, plan.partial_out, plan.partial_stats)
    if plan.tiles.shape[0] > 0:
        module.paged_attention_prefill(*tensors, plan.tiles, plan.context_lens, plan.query_start, plan.window)
