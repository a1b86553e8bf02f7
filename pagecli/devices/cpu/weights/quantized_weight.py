"""Weights that stay quantized in memory, 2 to 6 or 8 bits each, and become float32 or bfloat16 where they are multiplied.

A PackedWeight's `data` is then bytes: a header, and for every panel of 16 rows (N padded with zeros) its groups of k:

    header          128 bytes: as int32 the dtype (0 float32, 1 bfloat16), bits, offset (0 none, 1 zero, 2 low), k of a group,
                    k of a part (0: no factors), the center, float8 (0 or 1), wide (0 or 1); from byte 64 on,
                    of 4 bits, the table's 16 floats, bytes with sign times a power of two
    scale[16], zero or low[16] where there is one    float16; scales that are wide float32
    runs[group / 32], 32 k of the 16 rows each:
        factor[32 / part][16], offset_factor[32 / part][16] where there is an offset    int8
        q: 8 bits: bytes[16][16][2], two k of a row side by side; float8: bytes[32][16], a k of each row
           Others: planes of 4, 2 or 1 of their bits, the lower ones first (PLANES); of a plane of b bits words[b][16], 32 bits
           each: of a row's word i bits b * j and up are the even k of pair 16 / b * i + j, and 16 bits higher the odd k
"""

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np

from pagecli.core.arrays import Array, Tensor, empty
from pagecli.core.dtypes import QUANTIZED_DTYPES
from pagecli.model.weights.quantized import AnyQuantized, Offset, QuantizedFormat

HEADER_BYTES = 128
RUN_K = 32  # k of a run of numbers
GROUPS = (32, 64, 128, 256)
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2)}  # bits of each
TABLE_RANGE = (2.0**-40, 2.0**40)  # of the largest number of a table
DTYPES = QUANTIZED_DTYPES  # by their numbers in a header
_OFFSETS: tuple[Offset, ...] = get_args(Offset)


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes say."""

    dtype: str
    format: QuantizedFormat

    @property
    def num_offsets(self) -> int:
        """Beside a scale: 0 or 1."""
        return 0 if self.format.kind == "none" else 1

    @property
    def num_factors(self) -> int:
        """Of scales, in a run of a row; of offsets there are as many."""
        return RUN_K // self.format.part if self.format.part else 0

    @property
    def run_bytes(self) -> int:
        """Of a run of 16 rows."""
        return 16 * (self.num_factors * (1 + self.num_offsets) + RUN_K * self.format.bits // 8)

    @property
    def scales_bytes(self) -> int:
        """Of a group's scales and offsets, 16 rows."""
        return (64 if self.format.wide else 32) * (1 + self.num_offsets)

    @property
    def group_bytes(self) -> int:
        """Of a group of 16 rows: its scales and its runs."""
        return self.scales_bytes + self.format.group // RUN_K * self.run_bytes


def header_of(data: Tensor) -> Header:
    """The header of a packed weight's bytes."""
    dtype, bits, kind, group, part, center, float8, wide = np.asarray(data[:32]).view(np.int32).tolist()
    table = tuple(np.asarray(data[64:HEADER_BYTES]).view(np.float32).tolist())
    made_of = QuantizedFormat(bits, group, _OFFSETS[kind], part, center, table, bool(float8), bool(wide))
    return Header(DTYPES[dtype], made_of)


def can_pack(tensor: AnyQuantized) -> bool:
    """Whether the kernels take groups of the tensor's size and, of 4 bits, its table."""
    return tensor.format.group in GROUPS and (tensor.format.bits != 4 or _is_of_bytes(tensor.format.table))


def _is_of_bytes(table: tuple[float, ...]) -> bool:
    """Whether the numbers are bytes with sign times one power of two, the largest neither small nor large."""
    largest = max(map(abs, table))
    if not TABLE_RANGE[0] <= largest <= TABLE_RANGE[1]:
        return False
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 7)  # the largest is 64 to 127 of them
    return all((number / unit).is_integer() for number in table)


def allocate(made_of: QuantizedFormat, num_rows: int, num_cols: int, dtype: str) -> Array:
    """The bytes of a packed weight, its header written, the rest not filled."""
    num_groups = -(-num_rows // 16) * (num_cols // made_of.group)
    data = empty((HEADER_BYTES + num_groups * Header(dtype, made_of).group_bytes,), np.uint8)
    numbers = (
        made_of.bits,
        _OFFSETS.index(made_of.kind),
        made_of.group,
        made_of.part,
        made_of.center,
        made_of.float8,
        made_of.wide,
    )
    data[:64].view(np.int32)[:] = 0
    data[:32].view(np.int32)[:] = DTYPES.index(dtype), *numbers
    data[64:HEADER_BYTES].view(np.float32)[:] = made_of.table
    return data
