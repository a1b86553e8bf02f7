"""The number of KV blocks: from --kv-memory, or a share of the memory this process can still allocate."""

from pathlib import Path

from pagecli.errors import ModelError

AUTO_SHARE = 0.6  # of the memory that is free after the weights; the rest is for activations, input, output and other processes


def available_bytes(root: Path = Path("/")) -> int:
    """Memory this process can still take: the machine's available memory, or less where a cgroup limits it."""
    meminfo = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    for limit_path, used_path in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = (root / limit_path).read_text().strip(), (root / used_path).read_text().strip()
        except OSError:
            continue
        if limit.isdigit() and used.isdigit():
            available = min(available, max(0, int(limit) - int(used)))
    return available


def check_weights_fit(num_parameters: int, bytes_each: float, name: str, available: int | None = None) -> None:
    """Raise ModelError, before anything is loaded, if the weights alone are more than the memory available."""
    needed, available = num_parameters * bytes_each, available_bytes() if available is None else available
    if needed > available:
        raise ModelError(
            f"the weights of {name} take {needed / 2**30:.1f} GiB; {available / 2**30:.1f} GiB of memory are available",
            "use --dtype bfloat16 or int8, a smaller model or a larger machine",
        )


def num_swap_blocks(swap_memory_bytes: int, preemption: str, block_bytes: int) -> int:
    """Blocks of `block_bytes` for swapped-out K and V. Raises ModelError if swapping is asked for and not one fits."""
    if preemption == "swap" and swap_memory_bytes < block_bytes:
        raise ModelError(f"--swap-memory is less than one KV block of {block_bytes:,} bytes", "raise --swap-memory")
    return swap_memory_bytes // block_bytes


def num_kv_blocks(kv_memory_bytes: int | None, block_bytes: int, max_useful_blocks: int, available: int | None = None) -> int:
    """Blocks of `block_bytes` in `kv_memory_bytes` (None: AUTO_SHARE of what is available, and no more than could be used).

    `available`: by default, this machine's memory. Raises ModelError if that is not one block, or more than there is.
    """
    available = available_bytes() if available is None else available
    if kv_memory_bytes is None:
        num_blocks = min(int(available * AUTO_SHARE) // block_bytes, max_useful_blocks)
    else:
        num_blocks = kv_memory_bytes // block_bytes
        if num_blocks * block_bytes > available:
            raise ModelError(
                f"KV memory of {kv_memory_bytes / 2**30:.2f} GiB does not fit: {available / 2**30:.2f} GiB are available",
                f"use --kv-memory {max(1, int(available * AUTO_SHARE) // 2**20)}MiB, or auto",
            )
    if num_blocks < 1:
        given = "the memory available" if kv_memory_bytes is None else f"--kv-memory ({kv_memory_bytes:,} bytes)"
        raise ModelError(
            f"{given} is less than one KV block of {block_bytes:,} bytes", "raise --kv-memory or lower --block-size"
        )
    return num_blocks
