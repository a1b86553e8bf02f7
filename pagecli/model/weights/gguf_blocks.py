"""Blocks of quantized GGUF tensors, taken apart (ggml-common.h: block_q4_0, block_q4_K, ...)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pagecli.core.arrays import Array
from pagecli.model.weights.quantized import QuantizedFormat, QuantizedTensor

_IQ4_NL = tuple(map(float, (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)))  # kvalues_iq4nl


def _halves(blocks: Array, first: int) -> Array:
    """[N, blocks] float16 at byte `first` of each."""
    return np.ascontiguousarray(blocks[..., first : first + 2]).view(np.float16)[..., 0]


def _spread(packed: Array, shifts: tuple[int, ...], mask: int) -> Array:
    """[N, blocks, runs, bytes] -> [N, blocks, runs, shifts, bytes]: each byte shifted by one after the other."""
    out = np.empty((*packed.shape[:-1], len(shifts), packed.shape[-1]), np.uint8)
    for index, shift in enumerate(shifts):
        np.bitwise_and(packed >> shift if shift else packed, mask, out=out[..., index, :])
    return out


def _fields(blocks: Array, first: int, num_bytes: int, run: int, shifts: tuple[int, ...], mask: int) -> Array:
    """[N, numbers]: bytes of each block in runs, of which each gives as many numbers as there are shifts, those of one shift
    before those of the next."""
    packed = np.ascontiguousarray(blocks[..., first : first + num_bytes])
    return _spread(packed.reshape(*blocks.shape[:2], -1, run), shifts, mask).reshape(len(blocks), -1)


def _nibbles(blocks: Array, first: int) -> Array:
    return _fields(blocks, first, 16, 16, (0, 4), 15)


def _bits(blocks: Array, first: int) -> Array:
    """[N, 32 * blocks]: four bytes of each, a bit a number."""
    return np.unpackbits(np.ascontiguousarray(blocks[..., first : first + 4]), axis=-1, bitorder="little").reshape(
        len(blocks), -1
    )


def _q4_0(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    return QuantizedTensor(made_of, _nibbles(blocks, 2), _halves(blocks, 0))


def _q4_1(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    return QuantizedTensor(made_of, _nibbles(blocks, 4), _halves(blocks, 0), _halves(blocks, 2))


def _q5_0(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    return QuantizedTensor(made_of, _nibbles(blocks, 6) | _bits(blocks, 2) << 4, _halves(blocks, 0))


def _q5_1(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    numbers = _nibbles(blocks, 8) | _bits(blocks, 4) << 4
    return QuantizedTensor(made_of, numbers, _halves(blocks, 0), _halves(blocks, 2))


def _q8_0(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    return QuantizedTensor(made_of, blocks[..., 2:].reshape(len(blocks), -1).view(np.int8), _halves(blocks, 0))


def _six_bits(blocks: Array, first: int) -> tuple[Array, Array]:
    """Scales and minima[N, 8 * blocks] of 12 bytes: those of the first four parts, of both, and what is left of both."""
    scales, minima, rest = (blocks[..., first + 4 * i : first + 4 * (i + 1)] for i in range(3))
    found = (
        np.concatenate([each & 63, (half & 15) | (each >> 2 & 48)], axis=-1)
        for each, half in ((scales, rest), (minima, rest >> 4))
    )
    scale, low = (each.reshape(len(blocks), -1).view(np.int8) for each in found)
    return scale, low


def _with_minima(
    made_of: QuantizedFormat, q: Array, halves: tuple[Array, Array], factors: tuple[Array, Array]
) -> QuantizedTensor:
    """Of numbers whose minima, times a scale of their own, are taken off."""
    return QuantizedTensor(made_of, q, halves[0], -halves[1], *factors)


def _q2_k(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    factors = np.ascontiguousarray(blocks[..., :16]).reshape(len(blocks), -1)
    numbers = _fields(blocks, 16, 64, 32, (0, 2, 4, 6), 3)
    factor, low = ((each & 15).view(np.int8) for each in (factors, factors >> 4))
    return _with_minima(made_of, numbers, (_halves(blocks, 80), _halves(blocks, 82)), (factor, low))


def _q3_k(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    upper = _fields(blocks, 0, 32, 32, tuple(range(8)), 1)
    numbers = _fields(blocks, 32, 64, 32, (0, 2, 4, 6), 3) | upper << 2
    lower = _spread(np.ascontiguousarray(blocks[..., 96:104])[..., None, :], (0, 4), 15)
    upper = _spread(np.ascontiguousarray(blocks[..., 104:108])[..., None, :], (0, 2, 4, 6), 3)
    factor = (lower.reshape(len(blocks), -1) | upper.reshape(len(blocks), -1) << 4).view(np.int8) - np.int8(32)
    return QuantizedTensor(made_of, numbers, _halves(blocks, 108), factor=factor)


def _q4_k(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    numbers = _fields(blocks, 16, 128, 32, (0, 4), 15)
    return _with_minima(made_of, numbers, (_halves(blocks, 0), _halves(blocks, 2)), _six_bits(blocks, 4))


def _q5_k(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    numbers = _fields(blocks, 48, 128, 32, (0, 4), 15) | _fields(blocks, 16, 32, 32, tuple(range(8)), 1) << 4
    return _with_minima(made_of, numbers, (_halves(blocks, 0), _halves(blocks, 2)), _six_bits(blocks, 4))


def _q6_k(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    numbers = _fields(blocks, 0, 128, 64, (0, 4), 15) | _fields(blocks, 128, 64, 32, (0, 2, 4, 6), 3) << 4
    factor = np.ascontiguousarray(blocks[..., 192:208]).reshape(len(blocks), -1).view(np.int8)
    return QuantizedTensor(made_of, numbers, _halves(blocks, 208), factor=factor)


def _iq4_xs(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    upper = np.ascontiguousarray(blocks[..., 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    lower = np.stack([blocks[..., 4:8] & 15, blocks[..., 4:8] >> 4], axis=-1).reshape(upper.shape)
    factor = (lower | upper.astype(np.uint8) << 4).reshape(len(blocks), -1).view(np.int8) - np.int8(32)
    return QuantizedTensor(made_of, _fields(blocks, 8, 128, 16, (0, 4), 15), _halves(blocks, 0), factor=factor)


def _mxfp4(made_of: QuantizedFormat, blocks: Array) -> QuantizedTensor:
    exponents = np.clip(blocks[..., 0].astype(np.int32) - _MXFP4_LEAST - 24, -24, 15)
    scale = np.ldexp(np.float32(1), exponents).astype(np.float16)
    return QuantizedTensor(made_of, _nibbles(blocks, 1), scale)


def _has_halves(blocks: Array) -> bool:
    """Whether float16 has the scales of all blocks of MXFP4 that are not zeros."""
    exponents = blocks[..., 0]
    far = blocks[(exponents < _MXFP4_LEAST) | (exponents > _MXFP4_MOST)]
    return not np.any(far[:, 1:] & 0x77)


@dataclass(frozen=True, slots=True)
class BlockType:
    """A type of GGUF's tensors that can stay quantized in memory."""

    format: QuantizedFormat
    num_bytes: int  # of a block
    num_columns: int
    _take_apart: Callable[[QuantizedFormat, Array], QuantizedTensor]
    _can_stay: Callable[[Array], bool] | None = None

    def can_stay(self, rows: Array) -> bool:
        """Whether the format holds the numbers of these rows[N, bytes]."""
        return self._can_stay is None or self._can_stay(rows.reshape(len(rows), -1, self.num_bytes))

    def take_apart(self, rows: Array) -> QuantizedTensor:
        """The matrix of rows[N, bytes]."""
        return self._take_apart(self.format, rows.reshape(len(rows), -1, self.num_bytes))


# Twice the numbers of e2m1, and of them what the scales' exponents are shifted by: 2 ** -24 to 2 ** 15 are halves.
_MXFP4_LEAST, _MXFP4_MOST = 92, 131
_E2M1 = tuple(2.0**-12 * n for n in (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12))
_FROM_MINUS_8 = tuple(float(n - 8) for n in range(16))
# By ggml's numbers of types.
BLOCK_TYPES = {
    2: BlockType(QuantizedFormat(table=_FROM_MINUS_8), 18, 32, _q4_0),
    3: BlockType(QuantizedFormat(kind="low"), 20, 32, _q4_1),
    6: BlockType(QuantizedFormat(5, center=16), 22, 32, _q5_0),
    7: BlockType(QuantizedFormat(5, kind="low"), 24, 32, _q5_1),
    8: BlockType(QuantizedFormat(8), 34, 32, _q8_0),
    10: BlockType(QuantizedFormat(2, 256, "low", 16), 84, 256, _q2_k),
    11: BlockType(QuantizedFormat(3, 256, "none", 16, 4), 110, 256, _q3_k),
    12: BlockType(QuantizedFormat(4, 256, "low", 32), 144, 256, _q4_k),
    13: BlockType(QuantizedFormat(5, 256, "low", 32), 176, 256, _q5_k),
    14: BlockType(QuantizedFormat(6, 256, "none", 16, 32), 210, 256, _q6_k),
    20: BlockType(QuantizedFormat(table=_IQ4_NL), 18, 32, _q4_0),
    23: BlockType(QuantizedFormat(4, 256, "none", 32, table=_IQ4_NL), 136, 256, _iq4_xs),
    39: BlockType(QuantizedFormat(table=_E2M1), 17, 32, _mxfp4, _has_halves),
}
