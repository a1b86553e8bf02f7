"""Cost of paging in attention on a GPU: the decode kernel over blocks of every size, lying in order and shuffled, beside the
same kernel over contiguous memory (one block for a sequence) and torch's attention; and moving a sequence's blocks to the host
and back. Kwon et al., SOSP 2023, section 7.1 and figures 18 and 19: their kernel is 20-26 % slower than one without paging."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from timing import DEVICE, EMULATED, free_memory, seconds_of

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.attention import attention_shape, paged_attention, plan_attention

BLOCK_SIZES = (8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention of one model's layer for `batch` sequences of `context` tokens; context is a power of two."""

    name: str
    batch: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int


REAL = (Heads("opt-13b", 64, 1024, 40, 40, 128), Heads("llama-3-8b", 128, 1024, 32, 8, 128))
TINY = (Heads("opt-13b", 2, 128, 2, 2, 64), Heads("llama-3-8b", 2, 128, 4, 1, 64))
ROTATED = 3  # caches taken in turn, so that the level-2 cache does not answer


def block_sizes(tiny: bool) -> tuple[int, ...]:
    return BLOCK_SIZES[:: 4 if tiny else 1]


def attention_rows(tiny: bool) -> Iterator[dict[str, Any]]:
    """Microseconds of one layer's decode attention: contiguous, then each block size in order and shuffled, then torch."""
    for heads in TINY if tiny else REAL:
        contiguous = _decode_seconds(heads, heads.context, shuffled=False)
        about = {"figure": "attention", "model": heads.name, "batch": heads.batch, "context": heads.context}
        yield about | {"layout": "contiguous", "microseconds": contiguous * 1e6, "over_contiguous": 0.0}
        for size in block_sizes(tiny):
            for shuffled in (False, True):
                seconds = _decode_seconds(heads, size, shuffled)
                layout = f"blocks of {size}, {'shuffled' if shuffled else 'in order'}"
                yield about | {"layout": layout, "microseconds": seconds * 1e6, "over_contiguous": seconds / contiguous - 1}
        seconds = _torch_seconds(heads)
        yield about | {"layout": "torch SDPA", "microseconds": seconds * 1e6, "over_contiguous": seconds / contiguous - 1}


def _decode_seconds(heads: Heads, block_size: int, shuffled: bool) -> float:
    free_memory()
    blocks_each = heads.context // block_size
    num_blocks, count = heads.batch * blocks_each, 1 if EMULATED else ROTATED
    shape = attention_shape(heads.heads, heads.kv_heads, heads.head_dim, torch.bfloat16)
    lens, starts = np.full(heads.batch, heads.context, dtype=np.int32), np.arange(heads.batch + 1, dtype=np.int32)
    plan = plan_attention(lens, starts, shape, DEVICE)
    order = torch.randperm(num_blocks, device=DEVICE) if shuffled else torch.arange(num_blocks, device=DEVICE)
    tables = order.int().view(heads.batch, blocks_each)
    q = _random(heads.batch, heads.heads, heads.head_dim)
    out, scale = torch.empty_like(q), heads.head_dim**-0.5
    launches: list[Callable[[], object]] = []
    for _ in range(count):
        k, v = (_random(num_blocks, heads.kv_heads, block_size, heads.head_dim) for _ in range(2))
        launches.append(lambda k=k, v=v: paged_attention(out, q, k, v, tables, plan, scale))
    return seconds_of(launches)


def _torch_seconds(heads: Heads) -> float:
    free_memory()
    q, grouped = _random(heads.batch, heads.heads, 1, heads.head_dim), heads.heads != heads.kv_heads
    launches: list[Callable[[], object]] = []
    for _ in range(1 if EMULATED else ROTATED):
        k, v = (_random(heads.batch, heads.kv_heads, heads.context, heads.head_dim) for _ in range(2))
        launches.append(lambda k=k, v=v: functional.scaled_dot_product_attention(q, k, v, enable_gqa=grouped))
    return seconds_of(launches)


def swap_rows(tiny: bool, num_tokens: int) -> Iterator[dict[str, Any]]:
    """Milliseconds to move a sequence's blocks of OPT-13B to pinned host memory, and back, for each block size."""
    num_planes, kv_heads, head_dim = (4, 1, 64) if tiny else (80, 40, 128)
    for size in block_sizes(tiny):
        free_memory()
        blocks = -(-num_tokens // size)
        shape = (blocks, kv_heads, size, head_dim)
        on_gpu = [_random(*shape) for _ in range(num_planes)]
        on_host = [torch.empty(shape, dtype=torch.bfloat16, pin_memory=not EMULATED) for _ in range(num_planes)]
        pairs, block_bytes = [(i, blocks - 1 - i) for i in range(blocks)], on_gpu[0][0].nbytes
        out, back = kernels.block_planes(on_host, on_gpu, DEVICE), kernels.block_planes(on_gpu, on_host, DEVICE)
        seconds = seconds_of(
            [
                lambda out=out, pairs=pairs, n=block_bytes: kernels.swap_blocks(out, pairs, n),
                lambda back=back, pairs=pairs, n=block_bytes: kernels.swap_blocks(back, pairs, n),
            ]
        )
        moved = 2 * num_planes * blocks * block_bytes
        yield {
            "figure": "swap",
            "block_size": size,
            "tokens": num_tokens,
            "milliseconds_there_and_back": 2e3 * seconds,
            "bytes_per_s": moved / (2 * seconds),
        }


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device=DEVICE)
