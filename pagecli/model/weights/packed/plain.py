"""Linear layers whose 8-bit numbers lie in X.weight[N, K], float8 (e4m3) or integers, with scales beside them.

    compressed-tensors   weight_scale: one, [N, 1], [N, K / group] or [N / rows, K / columns] of blocks; weight_zero_point
    fp8                  weight_scale_inv of blocks (the last of each axis may be cut off) or one, or weight_scale
    fbgemm_fp8           weight_scale[N, 1]
    bitsandbytes         SCB[N]: of each row the largest size, which is 127

weight = scale * (q - zero). Products are of float32: what --dtype says is rounded from that.
"""

import numpy as np

from pagecli.core.arrays import Array, to_float32
from pagecli.model.weights.packed.layer import Format, Layer, halves, with_kept_groups
from pagecli.model.weights.quantized import E4M3, QuantizedFormat, QuantizedTensor

_SCB = ".SCB"
_SCALES = (".weight_scale", ".weight_scale_inv", _SCB)
_BITSANDBYTES = np.float32(1 / 127)


def _values(layer: Layer) -> Array:
    q = layer.raw(".weight")
    values = np.take(E4M3, q) if q.dtype == np.uint8 else q.astype(np.float32)
    if layer.has(".weight_zero_point"):
        values -= _of_numbers(layer, to_float32(layer.raw(".weight_zero_point")), q.shape)
    values *= _of_numbers(layer, layer.scales(_scale_of(layer)), q.shape)
    return values * _BITSANDBYTES if layer.has(_SCB) else values


def _quantized(layer: Layer) -> QuantizedTensor | None:
    """Of float8 or integers without zeros, in whole blocks of columns. Scales stay float32 where float16 does not hold them."""
    if layer.has(_SCB) or layer.has(".weight_zero_point"):
        return None
    q = layer.raw(".weight")
    float8 = q.dtype == np.uint8
    scales, block = _in_blocks(layer, layer.scales(_scale_of(layer)), q.shape)
    if block[1] * scales.shape[1] != q.shape[1] or (float8 and bool(((q & 127) == 127).any())):
        return None
    scale = np.repeat(scales, block[0], axis=0)[: len(q)]
    if not float8:
        scale = halves(scale)
    made_of = QuantizedFormat(8, block[1], float8=float8, wide=scale.dtype != np.float16)
    return with_kept_groups(QuantizedTensor(made_of, q, scale))


def _scale_of(layer: Layer) -> str:
    return next((end for end in _SCALES if layer.has(end)), _SCALES[0])


def _in_blocks(layer: Layer, scales: Array, shape: tuple[int, ...]) -> tuple[Array, tuple[int, int]]:
    """The scale of each block, and its rows and columns. Raises ModelError where the config says otherwise."""
    rows, columns = [size or axis for size, axis in zip(layer.config.block, shape, strict=True)]
    counts = -(-shape[0] // rows), -(-shape[1] // columns)
    if scales.size != counts[0] * counts[1] or (scales.ndim == 2 and scales.shape != counts):
        raise layer.damaged()
    return scales.reshape(counts), (rows, columns)


def _of_numbers(layer: Layer, scales: Array, shape: tuple[int, ...]) -> Array:
    """The scale of each number, in a shape that goes with theirs. Raises ModelError where the config says otherwise."""
    scales, block = _in_blocks(layer, scales, shape)
    for axis in range(2):
        if 1 < scales.shape[axis] < shape[axis]:
            scales = np.repeat(scales, block[axis], axis=axis).take(range(shape[axis]), axis=axis)
    return scales


_BESIDE = (*_SCALES, ".weight_zero_point", ".weight_shape", ".weight_format", ".input_scale", ".input_zero_point")
_OF_ACTIVATIONS = (".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".q_scale")
PLAIN = Format(((".weight", ".weight"),), (*_BESIDE, *_OF_ACTIVATIONS), _values, _quantized)
