"""What is known of a GPU without importing torch, which takes 2 s: whether it is worth looking for one, and what it takes."""

import importlib.util
import os
from pathlib import Path

from pagecli.errors import UsageError

_DRIVER_FILES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # the last: Windows' driver, seen from WSL


def may_have_gpu() -> bool:
    """False where this pagecli has no CUDA kernels, or the machine no driver of NVIDIA's."""
    if os.environ.get("PAGECLI_CUDA_MODULE"):
        return True
    has_kernels = importlib.util.find_spec("pagecli.devices.cuda._cuda") is not None
    return has_kernels and any(Path(file).exists() for file in _DRIVER_FILES)


def check_block_size(block_size: int) -> None:
    """Raises UsageError for a size that the GPU's kernels do not take."""
    if block_size & (block_size - 1) != 0:
        raise UsageError(f"block_size is {block_size}", "on a GPU it must be a power of two: 8, 16, 32, 64 or 128")
