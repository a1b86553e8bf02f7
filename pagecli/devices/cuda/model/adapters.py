"""LoRA adapters on a GPU: rows of a step grouped into tiles of one adapter, and what the adapters of a layer add to them."""

from collections.abc import Iterable

import numpy as np
import torch

from pagecli.core.arrays import Array
from pagecli.devices.cuda import kernels
from pagecli.errors import ModelError
from pagecli.model.program import LowRank, Operation

_MULTIPLE = 8  # of columns
TILE_ROWS = 8  # kAdapterTileRows of csrc/include/pagecli/cuda/adapters/low_rank.h


def most_tiles(num_rows: int, num_adapters: int) -> int:
    """Tiles that so many rows take at most, whichever adapters they have."""
    return (num_rows + (TILE_ROWS - 1) * min(num_rows, num_adapters)) // TILE_ROWS


def tiles_of(adapter_ids: Array, num_tiles: int | None = None) -> Array:
    """[tiles, 1 + TILE_ROWS] int32: an adapter and rows that have it, in their order, -1 for none; rows without one are in no
    tile. `num_tiles`: with empty tiles (adapter -1) up to so many."""
    rows = np.flatnonzero(adapter_ids >= 0)
    rows = rows[np.argsort(adapter_ids[rows], kind="stable")]
    adapters, counts = np.unique(adapter_ids[rows], return_counts=True)
    tiles_each = -(-counts // TILE_ROWS)
    firsts = np.repeat(np.cumsum(tiles_each) - tiles_each, counts)  # the first tile of each row's adapter
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # among its adapter's rows
    total = int(tiles_each.sum())
    tiles = np.full((total if num_tiles is None else num_tiles, 1 + TILE_ROWS), -1, np.int32)
    tiles[:total, 0] = np.repeat(adapters, tiles_each)
    tiles[firsts + places // TILE_ROWS, 1 + places % TILE_ROWS] = rows
    return tiles


def num_adapters_of(operations: Iterable[Operation]) -> int:
    """Of a program; 0: it has none."""
    return max((len(operation.starts) - 1 for operation in operations if isinstance(operation, LowRank)), default=0)


class CudaLowRank:
    """The adapters' matrices of one layer on the GPU, in float32. Raises ModelError for sizes that the kernels do not take."""

    def __init__(self, operation: LowRank, place: torch.device) -> None:
        sizes = operation.a.shape[1], operation.b.shape[1], operation.first
        if any(size % _MULTIPLE for size in sizes):
            what = f"adapters of a layer of {sizes[1]} by {sizes[0]} weights on a GPU, which takes multiples of {_MULTIPLE}"
            raise ModelError(what, "use --device cpu, or merge one adapter: --merge-lora DIR")
        self._a, self._b, self._starts = (
            torch.from_numpy(array).to(place) for array in (operation.a, operation.b, operation.starts)
        )
        self._most_ranks = int(np.diff(operation.starts).max())
        self.num_bytes = self._a.nbytes + self._b.nbytes + self._starts.nbytes

    def __call__(self, out: torch.Tensor, x: torch.Tensor, tiles: torch.Tensor) -> None:
        """out[T, N] += what the adapters of the tiles' rows make of x[T, K]."""
        inner = torch.empty(tiles.shape[0], TILE_ROWS, self._most_ranks, dtype=torch.float32, device=x.device)
        kernels.low_rank(out, x, self._a, self._b, self._starts, tiles, inner)
