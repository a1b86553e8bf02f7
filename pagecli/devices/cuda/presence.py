"""Whether looking for a GPU is worth importing torch, which takes 2 s."""

import importlib.util
import os
from pathlib import Path

_DRIVER_FILES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # the last: Windows' driver, seen from WSL


def may_have_gpu() -> bool:
    """False where this pagecli has no CUDA kernels, or the machine no driver of NVIDIA's."""
    if os.environ.get("PAGECLI_CUDA_MODULE"):
        return True
    has_kernels = importlib.util.find_spec("pagecli.devices.cuda._cuda") is not None
    return has_kernels and any(Path(file).exists() for file in _DRIVER_FILES)
