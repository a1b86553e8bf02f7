"""Paged attention on the GPU: a step's plan, made on the host and used by every layer, and the two kernels that follow it.

A sequence with one new token is decoded (its context cut into runs that are computed side by side, where that pays); one with
more is prefilled in tiles. float32, which the tensor cores do not take, decodes every row by itself: for checking only.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pagecli.devices.cuda.kernels import extension, raw

TILE_ROWS = 64  # query rows of a prefill tile


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What of the model and the machine a plan depends on."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    slots: int  # thread blocks of decode that run at once
    leaves_prompts: bool = False  # whole prompts are not tiled: prompt_attention.py

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True)
class AttentionTables:
    """A step's work as the host plans it (csrc/include/pagecli/cuda/attention/paged_attention.h); window as in `reference`."""

    runs: np.ndarray  # [runs, 5] int32: sequence, row, first key, end key, partial
    merges: np.ndarray  # [merges, 3] int32: row, first partial, number of partials
    tiles: np.ndarray  # [tiles, 2] int32: sequence, first row
    num_partials: int
    window: int


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The tables on the device, and room for the shares of runs that are merged."""

    runs: torch.Tensor
    merges: torch.Tensor
    tiles: torch.Tensor
    context_lens: torch.Tensor  # [S] int32
    query_start: torch.Tensor  # [S + 1] int32
    partial_out: torch.Tensor  # [partials, heads, head_dim] float32
    partial_stats: torch.Tensor  # [partials, heads, 2] float32
    window: int


def attention_shape(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> AttentionShape:
    """For the GPU of this process, whose multiprocessors hold as many blocks as their registers and shared memory allow."""
    module = extension()
    group = heads // kv_heads
    resident = module.resident_decode_blocks(str(dtype).removeprefix("torch."), group, head_dim)
    return AttentionShape(heads, kv_heads, head_dim, dtype, module.current_device()["multiprocessors"] * resident)


def spare_runs(shape: AttentionShape) -> int:
    """How many runs beyond one for each row a cut may have: twice as many thread blocks as run at once.

    A finer cut shortens no step (csrc/include/pagecli/cuda/attention/attention_plan.h). 396 slots, 8 KV heads: 99 runs; 40: 20.
    """
    return -(-2 * shape.slots // shape.kv_heads)


def most_partial_bytes(shape: AttentionShape, num_rows: int) -> int:
    """Bytes of the shares of a step's runs, at most, for one sliding window; num_rows: of the step, that are decoded."""
    return (num_rows + spare_runs(shape)) * shape.heads * (shape.head_dim + 2) * 4


def plan_tables(
    context_lens: np.ndarray,
    query_start: np.ndarray,
    shape: AttentionShape,
    window: int = 0,
    padded_rows: int | None = None,
    left_out: slice = slice(0),
) -> AttentionTables:
    """Plan a step of S sequences: context_lens[S], query_start[S + 1], int32 (as in `reference.paged_attention`).

    padded_rows: of a step that decodes S rows or fewer in a graph: tables of the size that any such step fits into, the unused
    entries padding; where no context is cut there are no merges and no partials. The cut itself is the same.
    left_out: sequences of several queries that are computed otherwise.
    """
    if query_start[-1] == len(context_lens):  # each has one
        rows = _decode_rows(context_lens, query_start, np.arange(len(context_lens)), window)
        runs, merges, num_partials = _cut(rows, shape, padded_rows)
        return AttentionTables(runs, merges, np.empty((0, 2), dtype=np.int32), num_partials, window)
    num_queries = np.diff(query_start).astype(np.int32)
    decoded = num_queries == 1 if shape.dtype != torch.float32 else num_queries > 0
    rows = _decode_rows(context_lens, query_start, np.flatnonzero(decoded), window)
    runs, merges, num_partials = _cut(rows, shape, padded_rows)
    is_tiled = (num_queries > 0) & ~decoded
    is_tiled[left_out] = False
    sequences = np.flatnonzero(is_tiled).astype(np.int32)
    num_tiles = int((-(-num_queries[sequences].astype(np.int64) * shape.group // TILE_ROWS)).sum())
    tiles = np.empty((num_tiles, 2), dtype=np.int32)
    extension().cut_into_tiles(sequences, num_queries[sequences], context_lens[sequences].astype(np.int32), shape.group, tiles)
    return AttentionTables(runs, merges, tiles, num_partials, window)


def plan_on_device(
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    num_partials: int,
    context_lens: torch.Tensor,
    query_start: torch.Tensor,
    shape: AttentionShape,
    window: int,
) -> AttentionPlan:
    """The plan of `tables` (runs, merges, tiles), which lie on the device already."""
    device = context_lens.device
    partial_out = torch.empty(num_partials, shape.heads, shape.head_dim, dtype=torch.float32, device=device)
    partial_stats = torch.empty(num_partials, shape.heads, 2, dtype=torch.float32, device=device)
    return AttentionPlan(*tables, context_lens, query_start, partial_out, partial_stats, window)


def plan_attention(
    context_lens: np.ndarray,
    query_start: np.ndarray,
    shape: AttentionShape,
    device: torch.device,
    window: int = 0,
    padded_rows: int | None = None,
) -> AttentionPlan:
    """plan_tables, moved to the device."""
    planned = plan_tables(context_lens, query_start, shape, window, padded_rows)
    arrays = (planned.runs, planned.merges, planned.tiles, context_lens, query_start)
    runs, merges, tiles, lens, starts = (  # empty arrays have strides of 0, their clones have not
        torch.from_numpy(array).clone(memory_format=torch.contiguous_format).to(device) for array in arrays
    )
    return plan_on_device((runs, merges, tiles), planned.num_partials, lens, starts, shape, window)


def _decode_rows(context_lens: np.ndarray, query_start: np.ndarray, sequences: np.ndarray, window: int) -> np.ndarray:
    """[rows, 4] int32: sequence, row, first key, end key of every query of `sequences`."""
    if len(sequences) == query_start[-1]:  # each has one
        rows = np.zeros((len(sequences), 4), dtype=np.int32)
        rows[:, 0], rows[:, 1], rows[:, 3] = sequences, query_start[sequences], context_lens[sequences]
        if window > 0:
            np.maximum(0, rows[:, 3] - window, out=rows[:, 2])
        return rows
    lengths = query_start[sequences + 1] - query_start[sequences]
    owner = np.repeat(sequences, lengths)
    row = np.arange(len(owner)) + np.repeat(query_start[sequences] - np.cumsum(lengths) + lengths, lengths)
    end = context_lens[owner] - (query_start[owner + 1] - row) + 1
    first = np.maximum(0, end - window) if window > 0 else np.zeros_like(end)
    return np.stack([owner, row, first, end], axis=1).astype(np.int32)


def _cut(rows: np.ndarray, shape: AttentionShape, padded_rows: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Runs, merges and the number of partial results of decode rows."""
    if padded_rows is not None and len(rows) > padded_rows:
        raise ValueError(f"{len(rows)} decode rows do not fit into {padded_rows}")
    num_keys = np.ascontiguousarray(rows[:, 3] - rows[:, 2])
    spare = spare_runs(shape)
    max_runs = len(rows) + spare
    run_length = extension().choose_run_length(num_keys, shape.kv_heads, shape.slots, max_runs)
    num_runs, num_merges = int(np.count_nonzero(num_keys)), 0
    if len(rows) and num_keys.max() > run_length:
        counts = -(-num_keys // run_length)
        num_runs, num_merges = int(counts.sum()), int((counts > 1).sum())
    if padded_rows is not None:  # all steps whose contexts are cut fit into the one size, all others into the other
        num_runs, num_merges = (padded_rows + spare, padded_rows) if num_merges else (padded_rows, 0)
    runs, merges = np.empty((num_runs, 5), dtype=np.int32), np.empty((num_merges, 3), dtype=np.int32)
    num_partials = extension().cut_into_runs(rows, run_length, runs, merges)
    return runs, merges, num_partials if padded_rows is None else num_runs if num_merges else 0


def paged_attention(
    out: torch.Tensor,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    plan: AttentionPlan,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    sinks: torch.Tensor | None = None,
) -> None:
    """`reference.paged_attention` of the step that `plan` was made for; caches' block size is a power of two; sinks[heads]
    float32.

    Caches of float8_e4m3fn hold k / k_scale and v / v_scale; head_dim is then a multiple of 16.
    """
    module = extension()
    tensors, scales = (out, q, raw(k_cache), raw(v_cache), block_tables, scale, sinks), (k_scale, v_scale)
    if plan.runs.shape[0] > 0:
        module.paged_attention_decode(*tensors, plan.runs, plan.merges, plan.partial_out, plan.partial_stats, *scales)
    if plan.tiles.shape[0] > 0:
        module.paged_attention_prefill(*tensors, plan.tiles, plan.context_lens, plan.query_start, plan.window, *scales)
