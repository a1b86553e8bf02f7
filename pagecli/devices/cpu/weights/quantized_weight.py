"""Weights that stay quantized in memory, 4 or 8 bits each, and are multiplied as float32, or with x rounded to bfloat16.

A PackedWeight's `data` is then bytes: a header, and for every panel of 16 rows (N padded with zeros) its groups of k:

    header          128 bytes: as int32 the dtype (0 float32, 1 bfloat16), bits, offset (0 none, 1 zero, 2 low), k of a group;
                    from byte 64 on, of 4 bits, the table's 16 floats
    scale[16], zero or low[16] where there is one    float16
    q[group / 32]   32 k of the 16 rows. 8 bits: bytes[16][16][2], two k of a row side by side. 4 bits: 32-bit words[4][16];
                    of a row's word i bits 4 n and up are k = 8 i + 2 (n % 4) + n / 4: each half of a word, shifted by 4 j,
                    begins with one k of a pair
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from pagecli.core.arrays import Array, Tensor, empty
from pagecli.core.dtypes import QUANTIZED_DTYPES
from pagecli.model.weights.quantized import Offset, QuantizedTensor

HEADER_BYTES = 128
RUN_K = 32  # k of a run of numbers
GROUPS = (32, 64, 128)
DTYPES = QUANTIZED_DTYPES  # by their numbers in a header
_OFFSETS: tuple[Offset, ...] = get_args(Offset)


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes say."""

    dtype: str
    bits: int
    kind: Offset
    group: int

    def group_bytes(self) -> int:
        """Of a group of 16 rows."""
        return 16 * (2 * (1 if self.kind == "none" else 2) + self.group * self.bits // 8)


def header_of(data: Tensor) -> Header:
    dtype, bits, kind, group = np.asarray(data[:16]).view(np.int32).tolist()
    return Header(DTYPES[dtype], bits, _OFFSETS[kind], group)


def can_pack(tensor: QuantizedTensor) -> bool:
    return tensor.group in GROUPS


def allocate(tensor: QuantizedTensor, dtype: str) -> Array:
    """The bytes of a packed weight, its header written, the rest not filled."""
    header = Header(dtype, tensor.bits, tensor.kind, tensor.group)
    num_groups = -(-tensor.q.shape[0] // 16) * tensor.scale.shape[1]
    data = empty((HEADER_BYTES + num_groups * header.group_bytes(),), np.uint8)
    data[:64].view(np.int32)[:] = 0
    data[:16].view(np.int32)[:] = DTYPES.index(dtype), tensor.bits, _OFFSETS.index(tensor.kind), tensor.group
    data[64:HEADER_BYTES].view(np.float32)[:] = tensor.table
    return data
