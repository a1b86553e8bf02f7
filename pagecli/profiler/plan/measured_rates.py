"""The rates that operations reach on this machine's device, kept beside the copies of tokenizers.

Other programs lower what a measurement finds, so the first plans on a machine each measure, and the highest rate counts.
A plan's time, `generate --dry-run` and the benchmarks' rooflines go by the same measurement: of a GPU large copies and products
(devices/cuda/rates.py), of CPUs a read of memory and the matrix kernel at as many rows as a step decodes.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from importlib import metadata
from pathlib import Path

from pagecli import __version__
from pagecli.profiler.plan.gpus import Device
from pagecli.profiler.plan.local_device import isa

MEASUREMENTS = 4  # plans that measure
SAMPLES = 7  # of a measurement, of which the highest counts
READ_BYTES = 128 << 20  # far more than any cache of so many cores
ROWS, COLUMNS, OUTPUTS = 128, 768, 3072  # of a product


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes/s read, and FLOP/s of products of bfloat16 and of float32."""

    bandwidth: float
    half_flops: float
    single_flops: float


def at_measured_rates(device: Device) -> Device:
    """This machine's device with the rates it reaches; as it is where they cannot be measured, which `source` tells."""
    measure = _measure_gpu if device.kind == "gpu" else _measure_host
    rates = _kept_or_measured(_key(device), measure)
    return device if rates is None else replace(device, **asdict(rates), source="measured on this machine", is_reached=True)


def _key(device: Device) -> str:
    """Whatever changes the rates: the device, and the programs that reach them."""
    if device.kind == "gpu":
        try:
            torch = metadata.version("torch")
        except metadata.PackageNotFoundError:
            torch = ""
        return f"{device.title}, {device.memory_bytes} bytes, torch {torch}"
    return f"{_processor()}, {isa()}, {device.title}, pagecli {__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    named = ("model name", "cpu family", "model\t", "stepping", "CPU implementer", "CPU part")
    return ", ".join(sorted({line for line in lines if line.startswith(named)}))


def _kept_or_measured(key: str, measure: Callable[[], Rates | None]) -> Rates | None:
    from pagecli.model.tokenizer.loading import cache_folder, make_folder, read, write

    folder, name = cache_folder("rates"), hashlib.sha256(key.encode()).hexdigest()
    content = None if folder is None else read(folder, name)
    kept = {} if content is None else json.loads(content)
    best, count = Rates(**kept["rates"]) if kept else None, kept.get("measurements", 0)
    rates = measure() if count < MEASUREMENTS else None
    if rates is None:
        return best
    if best is not None:
        rates = Rates(*(max(pair) for pair in zip(astuple(best), astuple(rates), strict=True)))
    if folder is not None and make_folder(folder):
        write(folder, name, json.dumps({"device": key, "rates": asdict(rates), "measurements": count + 1}).encode())
    return rates


def _measure_gpu() -> Rates | None:
    """None where torch has no GPU, or the GPU no room."""
    try:
        import torch

        from pagecli.devices.cuda import rates

        if not torch.cuda.is_available():
            return None
        return Rates(*rates.measure(torch.device("cuda")))
    except (ImportError, RuntimeError):
        return None


def _measure_host() -> Rates | None:
    """None where the kernels are missing, or those of another instruction set than a plan's are loaded."""
    try:
        from pagecli.devices.cpu import kernels
    except ImportError:
        return None
    if kernels.isa_name() != isa():
        return None
    return Rates(_read_bytes_per_second(), _flops("bfloat16"), _flops("float32"))


def _read_bytes_per_second() -> float:
    import numpy as np

    from pagecli.devices.cpu import kernels

    memory = np.ones(READ_BYTES // 4, dtype=np.int32)
    return memory.nbytes / _least_seconds(lambda: kernels.read_memory(memory))


def _flops(dtype: str) -> float:
    import numpy as np

    from pagecli.devices.cpu import kernels

    draws = np.random.default_rng(0)
    weight = kernels.pack_weight(draws.standard_normal((OUTPUTS, COLUMNS), np.float32), dtype)
    rows, out = draws.standard_normal((ROWS, COLUMNS), np.float32), np.empty((ROWS, OUTPUTS), np.float32)
    return 2 * ROWS * COLUMNS * OUTPUTS / _least_seconds(lambda: kernels.linear(out, rows, weight))


def _least_seconds(work: Callable[[], object]) -> float:
    work()  # the clock rises, the team wakes
    times = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
