"""The K and V tensors of every layer, and the arithmetic of how much memory a block takes.

values[layer]: [num_blocks, kv_heads, block_size, head_dim]; int8: head_dim + 4, a slot's scale behind its numbers
keys[layer]: the same on a GPU; on the CPU [num_blocks, kv_heads, head_dim, block_size], as its attention reads them
within a block the slots of one KV head lie side by side, so attention streams them; a block of one layer is
kv_heads * block_size * head_dim numbers, and slot s of the pool is block s // block_size, offset s % block_size
"""

import torch

from pagecli.model.config import ModelConfig
from pagecli.model.dtypes import KV_SCALE_BYTES
from pagecli.model.step_inputs import KVCache


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Bytes one block takes over all layers, K and V."""
    return config.kv_bytes_per_token(dtype.itemsize, _scale_bytes(dtype)) * block_size


def _scale_bytes(dtype: torch.dtype) -> int:
    return KV_SCALE_BYTES.get(str(dtype).removeprefix("torch."), 0)


def allocate(
    config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: str = "cpu", pinned: bool = False
) -> KVCache:
    """A cache of `num_blocks` blocks. The operating system gives it memory page by page, when slots are first written.

    `pinned`: memory of the host that a GPU can reach.
    """
    slot_size = config.head_dim + _scale_bytes(dtype) // dtype.itemsize
    shape = (num_blocks, config.num_kv_heads, block_size, slot_size)
    keys_shape = (*shape[:2], slot_size, block_size) if device == "cpu" else shape
    keys = [torch.empty(keys_shape, dtype=dtype, device=device, pin_memory=pinned) for _ in range(config.num_layers)]
    values = [torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned) for _ in range(config.num_layers)]
    return KVCache(keys, values)
