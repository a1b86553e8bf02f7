"""Linear layers of 4 or 8 bits, packed as GPTQ, AWQ and compressed-tensors (pack-quantized) pack them.

Of a layer X with N outputs and K inputs, as many numbers in each int32 as fit, the first in the lowest bits (here of 4):

    gptq                X.qweight[K / 8, N], qzeros[groups, N / 8], scales[groups, N], g_idx[K]: the group of each k
    awq                 X.qweight[K, N / 8], qzeros[groups, N / 8], scales[groups, N]; columns in the order 0 2 4 6 1 3 5 7
    compressed-tensors  X.weight_packed[N, K / 8], weight_zero_point[N / 8, groups] unless symmetric, weight_scale[N, groups]

weight = scale * (q - zero); zero as stored, plus one in GPTQ's first format; half of what fits where there is none.
"""

from dataclasses import replace

import numpy as np

from pagecli.core.arrays import Array
from pagecli.model.weights.packed.layer import Format, Layer, halves, with_kept_groups
from pagecli.model.weights.quantized import QuantizedTensor, in_groups

_IN_ORDER = tuple(range(8))
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of each four bits


def _numbers(packed: Array, bits: int, order: tuple[int, ...] = _IN_ORDER) -> Array:
    """int32[R, C] -> uint8[R, 32 / bits * C]."""
    count = 32 // bits
    shifts = np.empty(count, np.uint32)
    shifts[list(order[:count])] = np.arange(0, 32, bits, dtype=np.uint32)
    found = (packed.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    return found.astype(np.uint8).reshape(len(packed), -1)


def _compressed(layer: Layer) -> tuple[Array, Array, Array, Array | None]:
    """(numbers[N, K], scales, zeros, the group of each k or None)."""
    bits, scale, q = layer.config.bits, layer.scales(".weight_scale"), _numbers(layer.raw(".weight_packed"), layer.config.bits)
    if layer.has(".weight_shape"):  # whole words may hold more
        q = q[:, : int(layer.raw(".weight_shape")[-1])]
    has_zeros = layer.has(".weight_zero_point")
    zeros = _numbers(layer.raw(".weight_zero_point").T.copy(), bits).T[: len(scale)] if has_zeros else None
    groups = layer.raw(".weight_g_idx") if layer.has(".weight_g_idx") else None
    return q, scale, np.full(scale.shape, 2 ** (bits - 1)) if zeros is None else zeros, groups


def _by_columns(layer: Layer) -> tuple[Array, Array, Array, Array | None]:
    """The same of GPTQ and AWQ."""
    bits, packed, is_awq = layer.config.bits, layer.raw(".qweight"), layer.config.layout == "awq"
    order = _AWQ_ORDER if is_awq else _IN_ORDER
    q = _numbers(packed, bits, order).T if is_awq else _numbers(packed.T.copy(), bits)
    zeros = _numbers(layer.raw(".qzeros"), bits, order).T.astype(np.int16) + layer.config.zero_added
    return q, layer.scales(".scales").T, zeros, layer.raw(".g_idx") if layer.has(".g_idx") else None


def _unpacked(layer: Layer) -> tuple[QuantizedTensor, Array | None]:
    """The matrix [N, K] and, where groups are not runs of k, the order of k in which they are."""
    q, scale, zeros, groups_of = (_compressed if layer.config.layout == "pack-quantized" else _by_columns)(layer)
    size = layer.config.block[1]
    num_groups = -(-q.shape[1] // size) if size else 1
    if scale.shape != (len(q), num_groups) or zeros.shape != scale.shape or q.shape[1] % num_groups:
        raise layer.damaged()
    order = None if groups_of is None else _order(groups_of)
    q = np.ascontiguousarray(q if order is None else q[:, order])
    if layer.config.bits == 8:  # signed, as they stay
        q, zeros = (q ^ np.uint8(128)).view(np.int8), zeros - 128
    zeros = np.ascontiguousarray(zeros.astype(np.float16))
    return in_groups(q, np.ascontiguousarray(halves(scale)), zeros, "zero"), order


def _order(groups: Array) -> Array | None:
    """Of the groups of each k: the k in the order of their groups; None where that is theirs."""
    return None if np.all(groups[1:] >= groups[:-1]) else np.argsort(groups, kind="stable")


def _values(layer: Layer) -> Array:
    tensor, order = _unpacked(layer)
    values = tensor.dequantized()
    return values if order is None else np.ascontiguousarray(values[:, np.argsort(order, kind="stable")])


def _quantized(layer: Layer) -> QuantizedTensor | None:
    tensor, order = _unpacked(layer)
    if order is not None or tensor.scale.dtype != np.float16:
        return None
    return with_kept_groups(tensor)


_BESIDE = (".qzeros", ".scales", ".g_idx")
_COMPRESSED_BESIDE = (".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx", ".input_scale")
GPTQ = Format(((".weight", ".qweight"),), _BESIDE, _values, _quantized)
PACKED = replace(GPTQ, numbers=((".weight", ".weight_packed"),), beside=_COMPRESSED_BESIDE)
