"""Paged attention as transformers' modules call it: K and V go into the cache's slots, queries attend through block tables."""

from dataclasses import dataclass
from typing import Any

import torch

from pagecli.core.arrays import Array
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.cpu import kernels

_SLIDES = "sliding_attention"


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the attention of a layer is given."""

    kv_heads: int
    key_size: int
    value_size: int


class PagedAttention:
    """One model's attention function (transformers: AttentionInterface); `step` is what it computes for."""

    def __init__(self, head_dim: int = 0) -> None:
        """`head_dim`: of the cache's slots; heads of another size are filled up with zeros. 0: of each call's keys."""
        self.head_dim = head_dim
        self.step: tuple[StepInputs[Array], KVCache[Array]] | None = None  # None: shapes are noted, nothing is computed
        self.shapes: dict[int, Shapes] = {}  # by layer

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """out[1, T, heads, D] of query[1, heads, T, D], key and value[1, kv_heads, T, D]: the tokens of all sequences."""
        layer, size = module.layer_idx, value.shape[-1]
        if self.step is None:
            self.shapes[layer] = Shapes(key.shape[1], key.shape[-1], size)
            return query.new_zeros(1, query.shape[2], query.shape[1], size), None
        (inputs, kv), scale = self.step, query.shape[-1] ** -0.5 if scaling is None else scaling
        q, k, v = (self._rows(part) for part in (query, key, value))
        kernels.store_kv(kv.keys[layer], kv.values[layer], k, v, inputs.slot_ids)
        out = torch.empty(q.shape, dtype=torch.float32)
        sequences = inputs.block_tables, inputs.context_lens, inputs.query_start
        window = sliding_window or _window_of(module) or 0
        sinks = None if s_aux is None else s_aux.float().flatten()
        caches, cap = (kv.keys[layer], kv.values[layer]), softcap or 0.0
        kernels.paged_attention(out, q, *caches, *sequences, scale, window, cap, sinks=sinks)
        return out[..., :size].to(query.dtype).unsqueeze(0), None

    def _rows(self, heads: torch.Tensor) -> torch.Tensor:
        """[T, heads, head_dim] float32 of [1, heads, T, D]."""
        rows = heads[0].transpose(0, 1).float()
        missing = self.head_dim - rows.shape[-1]
        return torch.nn.functional.pad(rows, (0, missing)) if missing > 0 else rows.contiguous()


def _window_of(module: Any) -> int | None:
    """The sliding window of a layer that leaves it to its mask."""
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    return getattr(config, "sliding_window", None) if kinds and kinds[module.layer_idx] == _SLIDES else None
