"""The definition of what LoRA adapters add to a linear layer, in plain torch, and whose rows a GPU's tiles hold."""

import torch


def low_rank(
    out: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    starts: torch.Tensor,
    adapter_ids: torch.Tensor | None,
) -> None:
    """out[T, N] += (x[T, K] @ a[r].T) @ b[r] of the ranks r = starts[i]:starts[i + 1] of each token's adapter
    i = adapter_ids[T] (int32), of a[R, K] and b[R, N]; nothing where i is -1, or adapter_ids None (Hu et al., 2021)."""
    for token, adapter in enumerate([] if adapter_ids is None else adapter_ids.tolist()):
        if adapter >= 0:
            ranks = slice(int(starts[adapter]), int(starts[adapter + 1]))
            out[token] += a[ranks] @ x[token] @ b[ranks]


def adapter_ids_of(tiles: torch.Tensor, num_rows: int) -> torch.Tensor:
    """adapter_ids[num_rows] int32 of the tiles[n, 1 + rows] that GPUs take in their place: an adapter, then rows of it, -1 for
    none. Rows in no tile have no adapter."""
    ids = torch.full((num_rows,), -1, dtype=torch.int32)
    for adapter, *rows in tiles.tolist():
        ids[[row for row in rows if row >= 0]] = adapter
    return ids
