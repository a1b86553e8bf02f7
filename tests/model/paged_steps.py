"""Drives a model's forward by hand-built steps over a paged cache, as the engine would, for comparison with transformers."""

import random

import numpy as np
import torch

from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.reference.tensors import as_tensor


class PagedSteps:
    """Sequences in a small cache whose blocks are handed out in random order; context lengths are kept here."""

    def __init__(
        self, model, dtype: torch.dtype = torch.float32, block_size: int = 8, num_blocks: int = 64, adapter=None
    ) -> None:
        """`adapter`: index of the LoRA adapter of all sequences."""
        config = model.config
        sizes, junk = (block_size, config.head_dim), 1e4 if dtype.itemsize > 1 else 448.0  # unwritten slots must not matter
        keys, values = (
            [torch.full((num_blocks, config.num_kv_heads, *slots), junk, dtype=dtype) for _ in range(config.num_layers)]
            for slots in (sizes[::-1], sizes)
        )
        self.model, self.block_size, self.adapter = model, block_size, adapter
        self.kv = KVCache(keys, values)
        self.free = list(range(num_blocks))
        random.Random(0).shuffle(self.free)
        self.blocks: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    def step(self, chunks: dict[int, list[int]], wanted: str = "every") -> dict[int, torch.Tensor]:
        """One forward pass: new tokens of each sequence -> logits of each of them; wanted: every, last, none."""
        inputs = self.inputs(chunks, wanted)
        logits = as_tensor(self.model.forward(inputs, self.kv))
        assert logits.shape == (len(inputs.logit_rows), self.model.config.vocab_size)
        assert logits.dtype == torch.float32
        if wanted == "none":
            return {}
        counts = [1 if wanted == "last" else len(tokens) for tokens in chunks.values()]
        return dict(zip(chunks, logits.clone().split(counts), strict=True))

    def inputs(self, chunks: dict[int, list[int]], wanted: str) -> StepInputs:
        """What a forward pass over new tokens of each sequence takes; they are then part of the sequences."""
        token_ids, positions, slot_ids, starts, rows = [], [], [], [0], []
        for sequence, tokens in chunks.items():
            first = self.lengths.get(sequence, 0)
            self._grow(sequence, first + len(tokens))
            token_ids += tokens
            positions += range(first, first + len(tokens))
            slot_ids += [self._slot(sequence, position) for position in range(first, first + len(tokens))]
            starts.append(len(token_ids))
            rows += {"every": range(starts[-2], starts[-1]), "last": [starts[-1] - 1], "none": []}[wanted]
        width = max(len(self.blocks[sequence]) for sequence in chunks)
        tables = [self.blocks[sequence] + [0] * (width - len(self.blocks[sequence])) for sequence in chunks]
        return StepInputs(
            token_ids=np.array(token_ids, dtype=np.int32),
            positions=np.array(positions, dtype=np.int32),
            slot_ids=np.array(slot_ids, dtype=np.int64),
            block_tables=np.array(tables, dtype=np.int32),
            context_lens=np.array([self.lengths[sequence] for sequence in chunks], dtype=np.int32),
            query_start=np.array(starts, dtype=np.int32),
            logit_rows=np.array(rows, dtype=np.int64),
            adapter_ids=None if self.adapter is None else np.full(len(token_ids), self.adapter, np.int32),
        )

    def _grow(self, sequence: int, length: int) -> None:
        blocks = self.blocks.setdefault(sequence, [])
        while len(blocks) * self.block_size < length:
            blocks.append(self.free.pop())
        self.lengths[sequence] = length

    def _slot(self, sequence: int, position: int) -> int:
        return self.blocks[sequence][position // self.block_size] * self.block_size + position % self.block_size


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """norm of the difference / norm of what is expected"""
    return ((found - expected).norm() / expected.norm()).item()
