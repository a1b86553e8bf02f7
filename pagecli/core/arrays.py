"""Arrays as the CPU's kernels take them: numpy's, in memory that vector loads do not straddle, and bfloat16 as its bits.

numpy has no bfloat16, and no kernel takes plain uint16: an array of uint16 holds the bits of bfloat16 numbers.
"""

import math
import mmap
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array: TypeAlias = NDArray[Any]
Tensor: TypeAlias = Union[Array, "torch.Tensor"]

_ALIGNMENT = 64  # bytes: a line of the processor's cache
_LARGE = 1 << 20  # bytes: from here on memory of its own
_STORED_AS = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int8": np.int8}
_NAMES = {np.dtype(stored): name for name, stored in _STORED_AS.items()}


def stored_as(dtype: str) -> np.dtype[Any]:
    """The numpy dtype that stores numbers of the dtype `dtype`."""
    return np.dtype(_STORED_AS[dtype])


def name_of(dtype: np.dtype[Any]) -> str | None:
    """The inverse of stored_as; None for a numpy dtype that stores none of pagecli's."""
    return _NAMES.get(dtype)


def empty(shape: tuple[int, ...], dtype: Any = np.float32, huge_pages: bool = False) -> Array:
    """An aligned array, holding anything; a large one takes memory page by page, as it is first written.

    `huge_pages` asks for pages of 2 MiB, where the system has them to give. They take longer to get, so not all arrays lie in
    them, as numpy's do: packing 125 M weights took 0.7-0.9 s instead of 0.4.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes >= _LARGE:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if huge_pages and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(memory, dtype=dtype).reshape(shape)
    room = np.empty(num_bytes + _ALIGNMENT, dtype=np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + num_bytes].view(dtype).reshape(shape)


def to_float32(array: Array) -> Array:
    """float32 values of an array of float32, float16 or bfloat16; a copy, or the array itself."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)
