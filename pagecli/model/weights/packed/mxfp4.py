"""Experts of gpt-oss in MXFP4 (OCP Microscaling Formats 1.0, section 5.3): 4-bit floats (e2m1), and an exponent for 32 of them.

    X_blocks[experts, N, K / 32, 16]   bytes of two numbers, the first of them in the lower four bits
    X_scales[experts, N, K / 32]       e8m0: 2 ** (n - 127)

Their rows are outputs, where unquantized experts of gpt-oss lie as [inputs, outputs].
"""

from weakref import WeakKeyDictionary

import numpy as np

from pagecli.core.arrays import Array
from pagecli.model.weights.packed.layer import Format, Layer, exponents
from pagecli.model.weights.quantized import QuantizedTensor, in_groups
from pagecli.model.weights.safetensors_file import SafetensorsSource

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_GROUP = 32
_LEAST, _MOST = -24, 15  # exponents of float16
_RANGES: WeakKeyDictionary[SafetensorsSource, dict[str, tuple[int, int]]] = WeakKeyDictionary()  # no file is kept open for it


def _parts(layer: Layer) -> tuple[Array, Array]:
    """(bytes[N, K / 2], exponents[N, K / 32])."""
    blocks, scales = layer.raw("_blocks"), layer.raw("_scales")
    if blocks.ndim != 3 or blocks.shape[2] != _GROUP // 2 or scales.shape != blocks.shape[:2] or scales.dtype != np.uint8:
        raise layer.damaged()
    return blocks.reshape(len(blocks), -1), scales


def _values(layer: Layer) -> Array:
    pairs, scales = _parts(layer)
    table = np.array(E2M1, np.float32)
    both = np.stack([np.tile(table, 16), np.repeat(table, 16)], axis=-1)
    values = both[pairs].reshape(*scales.shape, _GROUP)
    values *= exponents(scales)[..., None]
    return values.reshape(len(values), -1)


def _range(source: SafetensorsSource, scales: str) -> tuple[int, int]:
    """The smallest and the largest exponent of all experts."""
    of_source = _RANGES.setdefault(source, {})
    if scales not in of_source:
        whole = source.raw(scales)
        of_source[scales] = int(whole.min()) - 127, int(whole.max()) - 127
    return of_source[scales]


def _quantized(layer: Layer) -> QuantizedTensor | None:
    """All experts' numbers times one power of two, so that what is left of their scales fits into float16."""
    pairs, scales = _parts(layer)
    least, most = _range(layer.source, f"{layer.name}_scales")
    if most == 128 or least - most < _LEAST - _MOST:
        return None
    shift = most - _MOST
    q = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(len(pairs), -1)
    scale = np.ldexp(np.float32(1), scales.astype(np.int32) - 127 - shift).astype(np.float16)
    return in_groups(q, scale, table=tuple(float(np.ldexp(value, shift)) for value in E2M1))


MXFP4 = Format((("", "_blocks"),), ("_scales",), _values, _quantized)
