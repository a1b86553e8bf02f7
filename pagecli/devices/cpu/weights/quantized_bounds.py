"""Quantized upper bounds: a 7-bit copy of an LM head, by which `linear_argmax` prunes outputs that cannot be the largest.

Layout, 32-bit words, for weight[N, K], N padded to a multiple of 16 and K to one of 64:

    words[N/16][K/4][16]      four k of a row: bytes 64 + q, q in [-63, 63]; the padding is 64
    scale[N]                  floats: a row's weights are about scale * q
    norm[N], error[N]         floats: at least |scale * q| and |weight - scale * q|, lengths of vectors
"""

from dataclasses import dataclass

import numpy as np

from pagecli.core.arrays import Tensor, empty
from pagecli.devices.cpu.weights.packed_weight import GROUP_K, PANEL_WIDTH

LIMIT = 63  # the largest size of q
ZERO = 64  # the byte of q = 0


@dataclass(frozen=True, slots=True)
class QuantizedBounds:
    """The bounds of a PackedWeight: `data` is flat, int32, laid out as above."""

    data: Tensor

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


def num_bytes(num_rows: int, num_cols: int) -> int:
    """Bytes of the bounds of weight[num_rows, num_cols]."""
    rows, cols = -(-num_rows // PANEL_WIDTH) * PANEL_WIDTH, -(-num_cols // GROUP_K) * GROUP_K
    return rows * (cols + 3 * 4)


def allocate(num_rows: int, num_cols: int) -> QuantizedBounds:
    """Memory for the bounds of weight[num_rows, num_cols], not filled."""
    return QuantizedBounds(empty((num_bytes(num_rows, num_cols) // 4,), np.int32))
