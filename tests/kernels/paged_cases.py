"""Sequences in a paged cache whose unused slots hold NaN: whatever reads a slot it should not shows in its result."""

from dataclasses import dataclass, field

import torch
from shapes import random

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import formats
from pagecli.devices.reference import operations as reference


@dataclass
class PagedCase:
    """Keys and values of some sequences, [context, kv_heads, head_dim] each, and how the cache stores them."""

    contexts: list[int]
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    window: int = 0
    seed: int = 0
    queries: list[torch.Tensor] = field(init=False)  # [context, heads, head_dim], one for every position
    k_cache: torch.Tensor = field(init=False)  # as the reference keeps it
    v_cache: torch.Tensor = field(init=False)
    block_tables: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        blocks_each = [-(-context // self.block_size) for context in self.contexts]
        num_blocks = sum(blocks_each) + 2
        is_int8 = self.dtype == torch.int8
        shape = (num_blocks, self.kv_heads, self.block_size, self.head_dim + (4 if is_int8 else 0))
        unused = -1 if is_int8 else float("nan")  # four bytes of -1 are a scale of NaN
        self.k_cache, self.v_cache = (torch.full(shape, unused, dtype=self.dtype) for _ in range(2))
        self.block_tables = torch.full((len(self.contexts), max(blocks_each, default=0) + 1), -1, dtype=torch.int32)
        order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(self.seed)).int()
        self.queries, first = [], 0
        for s, (context, blocks) in enumerate(zip(self.contexts, blocks_each, strict=True)):
            self.block_tables[s, :blocks] = order[first : first + blocks]
            first += blocks
            self.queries.append(random(self.seed + 3 * s, context, self.heads, self.head_dim))
            self._fill(s, random(self.seed + 3 * s + 1, context, self.kv_heads, self.head_dim), self.k_cache)
            self._fill(s, random(self.seed + 3 * s + 2, context, self.kv_heads, self.head_dim), self.v_cache)

    def _fill(self, s: int, values: torch.Tensor, cache: torch.Tensor) -> None:
        positions = torch.arange(values.shape[0])
        blocks = self.block_tables[s].long()[positions // self.block_size]
        is_int8 = self.dtype == torch.int8
        cache[blocks, :, positions % self.block_size] = formats.quantize_slots(values) if is_int8 else values.to(self.dtype)

    def arguments(self, chunks: list[tuple[int, int, int]]) -> tuple:
        """The native paged_attention's arguments after `out`, for chunks (sequence, first position, end position)."""
        rows = [self.queries[s][begin:end] for s, begin, end in chunks]
        lengths = torch.tensor([0] + [end - begin for _, begin, end in chunks], dtype=torch.int32)
        return (
            torch.cat(rows) if rows else torch.empty(0, self.heads, self.head_dim),
            formats.keys_by_dimension(self.k_cache),
            self.v_cache,
            self.block_tables[[s for s, _, _ in chunks]],
            torch.tensor([end for _, _, end in chunks], dtype=torch.int32),
            lengths.cumsum(0).int(),
            self.head_dim**-0.5,
            self.window,
        )

    def attend(self, chunks: list[tuple[int, int, int]], attention=kernels.paged_attention) -> torch.Tensor:
        """The chunks' rows in one call, concatenated; every element must have been written."""
        arguments = self.arguments(chunks)
        if attention is reference.paged_attention:
            arguments = (arguments[0], self.k_cache, *arguments[2:])
        out = torch.full_like(arguments[0], float("nan"))
        attention(out, *arguments)
        assert not out.isnan().any()
        return out
