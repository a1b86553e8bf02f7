"""What a GPU reaches at best: large copies, and large products of random matrices."""

import time
from collections.abc import Callable

import torch

BYTES, SIZE, SINGLE_SIZE = 1 << 29, 8192, 4096  # of a copy, read and written; of the matrices of bfloat16 and of float32
SAMPLES, LAUNCHES = 5, 8  # the samples' shortest counts; launches of one are queued, so that only the GPU is waited for


def measure(place: torch.device, num_bytes: int = BYTES, size: int = SIZE, single_size: int = SINGLE_SIZE) -> tuple[float, ...]:
    """Bytes/s read plus written, FLOP/s on bfloat16, FLOP/s on float32. Raises RuntimeError where the GPU has no room."""
    source = torch.randn(num_bytes // 4, device=place)
    target = torch.empty_like(source)
    bandwidth = 2 * num_bytes / _least_seconds(place, lambda: target.copy_(source))
    half = _flops(place, size, torch.bfloat16)
    return bandwidth, half, _flops(place, single_size, torch.float32)


def _flops(place: torch.device, size: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / _least_seconds(place, lambda: torch.mm(a, b, out=out))


def _least_seconds(place: torch.device, launch: Callable[[], object]) -> float:
    launch()  # loads modules, makes handles
    times = []
    for _ in range(SAMPLES):
        _synchronize(place)
        started = time.perf_counter()
        for _ in range(LAUNCHES):
            launch()
        _synchronize(place)
        times.append((time.perf_counter() - started) / LAUNCHES)
    return min(times)


def _synchronize(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
