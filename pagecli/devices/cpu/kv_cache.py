"""The K and V tensors of every layer, and the arithmetic of how much memory a block takes.

values[layer]: [num_blocks, kv_heads, block_size, head_dim]; int8: head_dim + 4, a slot's scale behind its numbers
keys[layer]: the same on a GPU; on the CPU [num_blocks, kv_heads, head_dim, block_size], as its attention reads them
within a block the slots of one KV head lie side by side, so attention streams them; a block of one layer is
kv_heads * block_size * head_dim numbers, and slot s of the pool is block s // block_size, offset s % block_size
"""

from pagecli.core import arrays
from pagecli.core.arrays import Array
from pagecli.core.dtypes import KV_BYTES, KV_SCALE_BYTES
from pagecli.core.model_config import ModelConfig
from pagecli.devices.step_inputs import KVCache


def block_bytes(config: ModelConfig, block_size: int, dtype: str) -> int:
    """Bytes one block takes over all layers, K and V; dtype: one of KV_DTYPES, or float16."""
    return config.kv_bytes_per_token(KV_BYTES[dtype], KV_SCALE_BYTES.get(dtype, 0)) * block_size


def allocate(config: ModelConfig, num_blocks: int, block_size: int, dtype: str) -> KVCache[Array]:
    """A cache of `num_blocks` blocks in the host's memory, which the operating system gives it page by page, when slots are
    first written; dtype: one of CPU_KV_DTYPES."""
    slot_size = config.head_dim + KV_SCALE_BYTES.get(dtype, 0) // KV_BYTES[dtype]
    shape = (num_blocks, config.num_kv_heads, block_size, slot_size)
    keys_shape = (*shape[:2], slot_size, block_size)
    keys = [arrays.empty(keys_shape, arrays.stored_as(dtype)) for _ in range(config.num_layers)]
    values = [arrays.empty(shape, arrays.stored_as(dtype)) for _ in range(config.num_layers)]
    return KVCache(keys, values)
