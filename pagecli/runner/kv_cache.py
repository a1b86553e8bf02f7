"""The K and V tensors of every layer, and the arithmetic of how much memory a block takes.

keys[layer], values[layer]: [num_blocks, kv_heads, block_size, head_dim]
within a block the slots of one KV head lie side by side, so attention streams them; a block of one layer is
kv_heads * block_size * head_dim numbers, and slot s of the pool is block s // block_size, offset s % block_size
"""

import torch

from pagecli.model.config import ModelConfig
from pagecli.model.step_inputs import KVCache


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Bytes one block takes over all layers, K and V."""
    return config.kv_bytes_per_token(dtype.itemsize) * block_size


def allocate(
    config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: str = "cpu", pinned: bool = False
) -> KVCache:
    """A cache of `num_blocks` blocks. The operating system gives it memory page by page, when slots are first written.

    `pinned`: memory of the host that a GPU can reach.
    """
    shape = (num_blocks, config.num_kv_heads, block_size, config.head_dim)
    keys = [torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned) for _ in range(config.num_layers)]
    values = [torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned) for _ in range(config.num_layers)]
    return KVCache(keys, values)
