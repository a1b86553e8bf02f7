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
from pagecli.model.weights.quantized import QuantizedTensor, in_groups

_SCB = ".SCB"
_SCALES = (".weight_scale", ".weight_scale_inv", _SCB)
_BITSANDBYTES = np.float32(1 / 127)


def _e4m3() -> Array:
    """The values of float8 e4m3fn: a sign, 4 bits of exponent (bias 7), 3 bits of fraction; all ones: NaN, no infinities."""
    code = np.arange(128)
    exponent, fraction = code >> 3, (code & 7).astype(np.float32)
    positive = np.where(exponent == 0, np.ldexp(fraction, -9), np.ldexp(8 + fraction, exponent - 10)).astype(np.float32)
    positive[127] = np.nan
    return np.concatenate([positive, -positive])


_E4M3 = _e4m3()


def _values(layer: Layer) -> Array:
    q = layer.raw(".weight")
    values = np.take(_E4M3, q) if q.dtype == np.uint8 else q.astype(np.float32)
    if layer.has(".weight_zero_point"):
        values -= _of_numbers(layer, to_float32(layer.raw(".weight_zero_point")), q.shape)
    values *= _of_numbers(layer, layer.scales(_scale_of(layer)), q.shape)
    return values * _BITSANDBYTES if layer.has(_SCB) else values


def _quantized(layer: Layer) -> QuantizedTensor | None:
    """Of integers with a scale for each row, or for some of its columns."""
    q, scale = layer.raw(".weight"), halves(layer.scales(_scale_of(layer)))
    if q.dtype != np.int8 or scale.dtype != np.float16 or layer.has(_SCB) or layer.has(".weight_zero_point"):
        return None
    if scale.size == 1:
        scale = np.repeat(scale.reshape(1, 1), len(q), axis=0)
    scale = scale.reshape(len(scale), -1)
    if len(scale) != len(q) or q.shape[1] % scale.shape[1]:
        return None
    return with_kept_groups(in_groups(q, scale))


def _scale_of(layer: Layer) -> str:
    return next((end for end in _SCALES if layer.has(end)), _SCALES[0])


def _of_numbers(layer: Layer, scales: Array, shape: tuple[int, ...]) -> Array:
    """The scale of each number, in a shape that goes with theirs. Raises ModelError where the config says otherwise."""
    block = [size or axis for size, axis in zip(layer.config.block, shape, strict=True)]
    counts = tuple(-(-axis // size) for axis, size in zip(shape, block, strict=True))
    if scales.size != counts[0] * counts[1] or (scales.ndim == 2 and scales.shape != counts):
        raise layer.damaged()
    scales = scales.reshape(counts)
    for axis in range(2):
        if 1 < counts[axis] < shape[axis]:
            scales = np.repeat(scales, block[axis], axis=axis).take(range(shape[axis]), axis=axis)
    return scales


_BESIDE = (*_SCALES, ".weight_zero_point", ".weight_shape", ".weight_format", ".input_scale", ".input_zero_point")
_OF_ACTIVATIONS = (".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".q_scale")
PLAIN = Format(((".weight", ".weight"),), (*_BESIDE, *_OF_ACTIVATIONS), _values, _quantized)
