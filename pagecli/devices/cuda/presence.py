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


def visible_gpus() -> list[str] | None:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; None where the system does not say."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    nodes = list(Path("/dev").glob("nvidia[0-9]*"))
    return [str(number) for number in range(len(nodes))] if nodes else None


def gpus_for(count: int, asked: str) -> tuple[str, ...]:
    """A GPU for each of `count` processes, as CUDA_VISIBLE_DEVICES names it. Raises UsageError, which names the flags that
    `asked` for them, where there are too few."""
    found = visible_gpus()
    if found is None:  # a process that finds none says so itself
        return tuple(map(str, range(count)))
    if len(found) < count:
        raise UsageError(
            f"{asked} with {len(found)} GPU{'s' if len(found) != 1 else ''} to be seen",
            f"each rank of a model takes one, {count} in all: see nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    return tuple(found[:count])
