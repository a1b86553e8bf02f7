"""Weights of linear layers and embeddings, packed once at load for the matrix kernels.

One layout serves every instruction set (N output features, K input features, `weight[N, K]`):

    panel 0 holds rows 0..15, panel 1 rows 16..31, ...; N is padded with zeros to a multiple of 16, K to a multiple of 2
    float32   data[N/16][K  ][16]       one k, 16 rows side by side
    bfloat16  data[N/16][K/2][16][2]    two k of a row side by side: vdpbf16ps takes them so; others shift and mask
"""

from dataclasses import dataclass

import torch

PANEL_WIDTH = 16
K_MULTIPLE = 2


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A packed `weight[num_rows, num_cols]`; `data` is flat, float32 or bfloat16, in the layout above."""

    data: torch.Tensor
    num_rows: int
    num_cols: int

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def nbytes(self) -> int:
        return self.data.numel() * self.data.element_size()


def padded_shape(num_rows: int, num_cols: int) -> tuple[int, int]:
    """(num_rows, num_cols) rounded up to whole panels and whole k pairs."""
    return -(-num_rows // PANEL_WIDTH) * PANEL_WIDTH, -(-num_cols // K_MULTIPLE) * K_MULTIPLE
