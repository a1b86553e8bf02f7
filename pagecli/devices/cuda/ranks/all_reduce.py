"""Sums over the GPUs of a tensor-parallel group, by torch.distributed: NCCL, which a CUDA graph may hold, or gloo where a GPU's
tensors lie on the host (the emulator of the tests)."""

import os
from datetime import timedelta

import torch
from torch import distributed

from pagecli.devices.cuda.errors import device_errors


class AllReduce:
    """The group of `size` ranks, each a process of this host. Made by all of them, which wait for each other here."""

    def __init__(self, rank: int, size: int, meeting_fd: int, place: torch.device, timeout: float) -> None:
        """`meeting_fd`: of an empty file that all ranks have open, by which they find each other: no port is taken for it."""
        for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")  # a host's ranks need no network
        store = distributed.FileStore(f"/proc/self/fd/{meeting_fd}", size)  # type: ignore[attr-defined]
        on_gpu = place.type == "cuda"
        with device_errors("meeting the other ranks"):
            distributed.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=store,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout),
                device_id=torch.device("cuda", torch.cuda.current_device()) if on_gpu else None,
            )

    def __call__(self, tensor: torch.Tensor) -> None:
        """tensor = the sum of all ranks' tensors, in its own type; queued like any other work."""
        distributed.all_reduce(tensor)
