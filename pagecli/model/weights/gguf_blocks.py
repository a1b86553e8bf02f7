"""Blocks of quantized GGUF tensors, taken apart (ggml-common.h: block_q4_0, block_q4_1, block_q8_0, block_iq4_nl)."""

from collections.abc import Callable

import gguf
import numpy as np

from pagecli.core.arrays import Array
from pagecli.model.weights.quantized import QuantizedTensor

_Q = gguf.GGMLQuantizationType
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # kvalues_iq4nl


def _halves(blocks: Array, first: int) -> Array:
    """[N, blocks] float16 at byte `first` of each."""
    return np.ascontiguousarray(blocks[..., first : first + 2]).view(np.float16)[..., 0]


def _nibbles(blocks: Array, first: int) -> Array:
    """[N, 32 * blocks]: 16 bytes of each, the lower halves before the upper ones."""
    numbers = blocks[..., first : first + 16]
    return np.concatenate([numbers & 15, numbers >> 4], axis=-1).reshape(len(blocks), -1)


def _q4_0(blocks: Array) -> QuantizedTensor:
    scale = _halves(blocks, 0)
    return QuantizedTensor(_nibbles(blocks, 2), scale, np.full_like(scale, 8), "zero")


def _q4_1(blocks: Array) -> QuantizedTensor:
    return QuantizedTensor(_nibbles(blocks, 4), _halves(blocks, 0), _halves(blocks, 2), "low")


def _iq4_nl(blocks: Array) -> QuantizedTensor:
    return QuantizedTensor(_nibbles(blocks, 2), _halves(blocks, 0), table=tuple(map(float, _IQ4_NL)))


def _q8_0(blocks: Array) -> QuantizedTensor:
    return QuantizedTensor(blocks[..., 2:].reshape(len(blocks), -1).view(np.int8), _halves(blocks, 0))


_TAKEN_APART: dict[int, Callable[[Array], QuantizedTensor]] = {
    _Q.Q4_0: _q4_0,
    _Q.Q4_1: _q4_1,
    _Q.IQ4_NL: _iq4_nl,
    _Q.Q8_0: _q8_0,
}


def take_apart(rows: Array, ggml_type: int) -> QuantizedTensor | None:
    """rows[N, bytes] of a matrix of that type; None of a type that is not kept quantized."""
    take = _TAKEN_APART.get(ggml_type)
    return None if take is None else take(rows.reshape(len(rows), -1, gguf.GGML_QUANT_SIZES[_Q(ggml_type)][1]))
