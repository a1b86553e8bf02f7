"""LoRA adapters at the sizes of a real model (kernel_cases.py)."""

import numpy as np
import torch
from measured_case import BF16, ELEMENT, FLOAT32, Case, Sizes

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.adapters import TILE_ROWS, tiles_of


def low_rank_case(s: Sizes) -> Case:
    """The adapters of Llama-3-8B's query projection, in a decode of 256 sequences with 16 adapters of rank 16, in turn."""
    rows, k, n, adapters, rank = s.of(256, 20), s.of(4096, 64), s.of(4096, 32), s.of(16, 3), s.of(16, 4)
    num_bytes = rows * (k + 2 * n) * ELEMENT + adapters * rank * (k + n) * FLOAT32
    ids = np.arange(rows, dtype=np.int32) % adapters
    tiles = torch.from_numpy(tiles_of(ids)).to(s.device)
    starts = torch.arange(0, adapters * rank + 1, rank, dtype=torch.int32, device=s.device)
    chosen = torch.from_numpy(ids).long().to(s.device)

    def make() -> tuple:
        a, b = (s.random(adapters * rank, size, dtype=torch.float32) * size**-0.5 for size in (k, n))
        inner = torch.empty(len(tiles), TILE_ROWS, rank, dtype=torch.float32, device=s.device)
        return s.random(rows, n), s.random(rows, k), a, b, inner

    def ours(out, x, a, b, inner):
        kernels.low_rank(out, x, a, b, starts, tiles, inner)
        return out

    def torchs(out, x, a, b, inner):
        a, b = (each.view(adapters, rank, -1)[chosen].to(BF16) for each in (a, b))
        return torch.baddbmm(out.unsqueeze(1), torch.bmm(x.unsqueeze(1), a.transpose(1, 2)), b).squeeze(1)

    name = f"adapters, {rows} rows, {adapters} of rank {rank} [{k}, {n}]"
    operations = 2 * rows * rank * (k + n)
    return Case(name, num_bytes, operations, s.sets(make, num_bytes), ours, torchs, "gather, bmm, baddbmm")
