"""A ModelRunner whose model and cache lie on a GPU. Eager: each step is queued kernel by kernel, and its logits come back to
the host, where tokens are chosen as on the CPU."""

import torch

from pagecli.errors import UsageError
from pagecli.kernels import cuda
from pagecli.model.registry import Model
from pagecli.runner import kv_cache
from pagecli.runner.cuda_block_mover import CudaBlockMover
from pagecli.runner.model_runner import ModelRunner


def build(model: Model, num_blocks: int, num_swap_blocks: int, block_size: int, dtype: torch.dtype) -> ModelRunner:
    """Cache on the GPU, swap pool in pinned memory. Raises UsageError for block sizes the GPU's kernels do not take."""
    if block_size & (block_size - 1) != 0:
        raise UsageError(f"block_size is {block_size}", "on a GPU it must be a power of two: 8, 16, 32, 64 or 128")
    device = cuda.find_device()
    cache = kv_cache.allocate(model.config, num_blocks, block_size, dtype, device.type)
    pinned = device.type == "cuda" and num_swap_blocks > 0
    swap = kv_cache.allocate(model.config, num_swap_blocks, block_size, dtype, pinned=pinned)
    return ModelRunner(model, cache, block_size, swap, CudaBlockMover(cache, swap))
