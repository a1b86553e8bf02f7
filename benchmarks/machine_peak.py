"""What the machine can do at best: multiply-adds in registers and reading memory, by all threads of pagecli's own team."""

import statistics
import time
from dataclasses import dataclass

import numpy as np

from pagecli.devices.cpu import kernels

READ_BYTES = 256 << 20  # far more than any cache
SAMPLES, PIECES = 9, 120  # a sample is about 40 ms of one core


@dataclass(frozen=True, slots=True)
class Peak:
    """Operations and bytes a second; medians, for the cores are rarely ours alone."""

    linear: float  # multiplications and additions, as linear does them for the dtype at hand
    float32: float  # the same on float32, which attention computes in
    read: float  # bytes


def measure(dtype: str) -> Peak:
    linear = operations_per_second(dtype)
    return Peak(linear, linear if dtype == "float32" else operations_per_second("float32"), read_bytes_per_second())


def operations_per_second(dtype: str) -> float:
    kernels.peak_operations(dtype, PIECES)  # the clock rises, the team wakes
    rates = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        operations = kernels.peak_operations(dtype, PIECES)
        rates.append(operations / (time.perf_counter() - started))
    return statistics.median(rates)


def read_bytes_per_second() -> float:
    memory = np.ones(READ_BYTES // 4, dtype=np.int32)
    kernels.read_memory(memory)
    rates = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        kernels.read_memory(memory)
        rates.append(memory.nbytes / (time.perf_counter() - started))
    return statistics.median(rates)
