"""Linear layers that bitsandbytes quantized to 4 bits, nf4 or fp4 (Dettmers et al., 2023: QLoRA, section 3).

X.weight                              bytes of two numbers, the first of them in the upper four bits; rows run on
X.weight.quant_map[16]                what a number stands for
X.weight.absmax                       the scale of each block of 64 numbers or so; with double quantization a byte:
X.weight.nested_quant_map[256]        what that stands for, times
X.weight.nested_absmax                the scale of each block of 256 of those, plus the state's nested_offset
X.weight.quant_state.bitsandbytes__*  JSON, as bytes: shape, blocksize, nested_blocksize, nested_offset
"""

import math
from typing import Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.json_text import parsed
from pagecli.model.weights.packed.layer import Format, Layer, not_kept

_STATES = tuple(f".weight.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))


def _values(layer: Layer) -> Array:
    state = _state(layer)
    shape, block = tuple(state["shape"]), state["blocksize"]
    count = math.prod(shape)
    packed, table = layer.raw(".weight").view(np.uint8).reshape(-1), layer.scales(".weight.quant_map")
    scales = _scales(layer, state)
    if packed.size != (count + 1) // 2 or table.shape != (16,) or scales.shape != (-(-count // block),):
        raise layer.damaged()
    both = np.stack([np.repeat(table, 16), np.tile(table, 16)], axis=-1)
    values = both[packed].reshape(-1)[:count]
    whole = count // block * block
    values[:whole].reshape(-1, block)[...] *= scales[: whole // block, None]
    values[whole:] *= scales[-1]
    return values.reshape(shape)


def _scales(layer: Layer, state: dict[str, Any]) -> Array:
    stored = layer.raw(".weight.absmax")
    if stored.dtype != np.uint8:
        return layer.scales(".weight.absmax")
    table, nested, block = (
        layer.scales(".weight.nested_quant_map"),
        layer.scales(".weight.nested_absmax"),
        state.get("nested_blocksize"),
    )
    if not isinstance(block, int) or block < 1 or table.shape != (256,) or nested.shape != (-(-len(stored) // block),):
        raise layer.damaged()
    return np.asarray(table[stored] * np.repeat(nested, block)[: len(stored)] + np.float32(state.get("nested_offset", 0.0)))


def _state(layer: Layer) -> dict[str, Any]:
    end = next((end for end in _STATES if layer.has(end)), None)
    try:
        state = parsed(layer.raw(end).tobytes()) if end is not None else {}
        shape, block = state["shape"], state["blocksize"]
        if block > 0 and len(shape) == 2 and all(type(n) is int and n > 0 for n in (*shape, block)):
            return dict(state)
    except (ValueError, KeyError, TypeError) as error:
        raise layer.damaged() from error
    raise layer.damaged()


_BESIDE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
BITSANDBYTES = Format(((".weight", ".weight"),), (*(f".weight.{end}" for end in _BESIDE), *_STATES), _values, not_kept)
