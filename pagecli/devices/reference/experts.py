"""The definition of a mixture of experts, in plain torch: who goes where, linear layers by row, and what comes of it. GPUs take
rows sorted by expert in place of the experts' ids: `sort_experts`, `ids_of`."""

import torch

from pagecli.devices.cpu.weights.packed_weight import PackedExperts, PackedWeight
from pagecli.devices.reference.operations import linear


def router(
    ids: torch.Tensor, weights: torch.Tensor, logits: torch.Tensor, normalize: bool, token_ids: torch.Tensor | None = None
) -> None:
    """ids[T, C] (int32) = the experts of the C largest of logits[T, E], the largest first, of equal ones the one of the smaller
    number; weights[T, C] = softmax(logits)[ids], divided by their sum where `normalize`. A row with a NaN has weights of NaN.
    Both are -1 where token_ids[T] is negative: rows that only fill a step up.
    """
    order = logits.sort(dim=-1, descending=True, stable=True).indices[:, : ids.shape[1]]
    chosen = logits.softmax(-1).gather(1, order)
    ids.copy_(order)
    weights.copy_(chosen / chosen.sum(-1, keepdim=True) if normalize else chosen)
    if token_ids is not None:
        ids[token_ids < 0], weights[token_ids < 0] = -1, -1.0


def grouped_linear(
    out: torch.Tensor,
    x: torch.Tensor,
    ids: torch.Tensor,
    weight: PackedExperts | torch.Tensor,
    bias: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
) -> None:
    """out[T, C, N] = x[T, C, K] @ weight[ids[T, C], N, K].T + bias[ids[T, C], N]; of x[T, K] every choice multiplies the same
    row. A row's result is `linear`'s by its expert's weight, to the bit, and depends on that row alone; where ids is negative
    nothing is written. With scales[experts, N] the rows of a weight that is not packed are times those."""
    rows = x if x.dim() == 3 else x.unsqueeze(1).expand(-1, ids.shape[1], -1)
    for expert in ids[ids >= 0].unique().tolist():
        if isinstance(weight, PackedExperts):
            own: PackedWeight | torch.Tensor = weight.expert(expert)
        else:
            own = weight[expert] if scales is None else weight[expert] * scales[expert].unsqueeze(1)
        result = torch.empty(int((ids == expert).sum()), out.shape[2], dtype=out.dtype)
        linear(result, rows[ids == expert], own, None if bias is None else bias[expert])
        out[ids == expert] = result


def sort_experts(ids: torch.Tensor, num_experts: int, tile_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of ids[T, C] the rows t * C + c by expert, one expert's in their order, negative ones' left out; and tiles[n, 3] of
    them: expert, where its rows begin, and how many, up to tile_rows. A GPU has tiles of expert -1 behind them."""
    flat = ids.flatten()
    order = flat.argsort(stable=True)[int((flat < 0).sum()) :]
    tiles, first = [], 0
    for expert, count in enumerate(torch.bincount(flat[order], minlength=num_experts).tolist()):
        tiles += [(expert, first + i, min(tile_rows, count - i)) for i in range(0, count, tile_rows)]
        first += count
    return order.int(), torch.tensor(tiles, dtype=torch.int32).reshape(-1, 3)


def ids_of(order: torch.Tensor, tiles: torch.Tensor, num_chosen: int) -> torch.Tensor:
    """ids[T, num_chosen] int32, the other way: the experts whose tiles hold the rows, -1 of rows in none."""
    ids = torch.full((order.numel(),), -1, dtype=torch.int32)
    for expert, first, count in tiles.tolist():
        ids[order[first : first + count].long()] = expert
    return ids.view(-1, num_chosen)


def combine_experts(
    out: torch.Tensor,
    x: torch.Tensor,
    weights: torch.Tensor,
    shared: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    accumulate: bool = False,
) -> None:
    """out[T, N] (+)= weights[T, 0] * x[T, 0, N] + weights[T, 1] * x[T, 1, N] + ... in this order, and last shared[T, N], times
    sigmoid(gate[T, 1]) where that is given."""
    total = weights[:, :1] * x[:, 0]
    for choice in range(1, x.shape[1]):
        total = total + weights[:, choice : choice + 1] * x[:, choice]
    if shared is not None:
        total = total + (shared if gate is None else torch.sigmoid(gate) * shared)
    out.copy_(out + total if accumulate else total)
