"""A weight from the way its checkpoint holds it to the way a program wants it (model/program.py: Weight, Layout)."""

from collections.abc import Container

import numpy as np

from pagecli.core.arrays import Array, to_float32
from pagecli.model.program import Weight

# What a source may have done already, as llama.cpp's converter: "transposed", "heads", "offset", and "pairs" of gates and ups.


def stored_shape(weight: Weight, shape: tuple[int, ...], done: Container[str]) -> tuple[int, ...]:
    """The shape in which the checkpoint holds a tensor that the program reads as `shape`; `done`: by the source."""
    is_stored_so = weight.layout is None or not weight.layout.transposed or "transposed" in done
    return shape if is_stored_so else shape[::-1]


def turned(weight: Weight, tensor: Array, done: Container[str]) -> Array:
    """One of a weight's tensors, its rows the program's rows."""
    is_stored_so = weight.layout is None or not weight.layout.transposed or "transposed" in done
    return tensor if is_stored_so else np.ascontiguousarray(tensor.T)


def ordered(weight: Weight, joined: Array, done: Container[str]) -> Array:
    """A weight's joined rows in the program's order, offset and scaled."""
    layout = weight.layout
    if layout is not None and layout.heads is not None and "heads" not in done:
        joined = _by_kind(joined, *layout.heads)
    if layout is not None and layout.pairs is not None and "pairs" not in done:
        paired = _half_split(joined[: layout.paired_rows], *layout.pairs)
        joined = np.concatenate([paired, joined[layout.paired_rows :]])
    offset = weight.offset if "offset" not in done else 0.0
    if offset or weight.scale != 1.0:
        joined = (to_float32(joined) + np.float32(offset)) * np.float32(weight.scale)
    return joined


def _by_kind(rows: Array, kv_heads: int, parts: int, head_dim: int) -> Array:
    """[kv_heads, queries + key + value, head_dim] -> all queries, all keys, all values."""
    heads = rows.reshape(kv_heads, parts, head_dim, *rows.shape[1:])
    pieces = (heads[:, : parts - 2], heads[:, parts - 2], heads[:, parts - 1])
    return np.concatenate([piece.reshape(-1, *rows.shape[1:]) for piece in pieces])


def _half_split(rows: Array, head_dim: int, rotary_dim: int) -> Array:
    """Rows of each head's rotated part from pairs side by side to first halves, then second halves."""
    heads = rows.reshape(-1, head_dim, *rows.shape[1:]).copy()
    pairs = heads[:, :rotary_dim].reshape(-1, rotary_dim // 2, 2, *rows.shape[1:])
    heads[:, :rotary_dim] = pairs.swapaxes(1, 2).reshape(heads[:, :rotary_dim].shape)
    return heads.reshape(rows.shape)
