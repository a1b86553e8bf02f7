"""This machine's devices: its first NVIDIA GPU by NVML, and its memory and CPUs, read without torch.

Rates are those of a data sheet or of a table; measured_rates.py measures them.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pagecli.devices.memory import available_bytes
from pagecli.engine.loaded_model import usable_cores
from pagecli.profiler.plan.gpus import Device, match_gpu

# FLOP/s of a core on float32 and on bfloat16. avx2: a whole run of 128 requests on two Zen 3 cores; avx512bf16 and avx512: a
# prototype of the matrix kernel on two Genoa cores, at the shapes of decoding; amx: the matrix kernel at 60 to 250 rows on two
# cores of an Emerald Rapids that others share. neon and neon_bf16 are not measured: half the peak of a Neoverse N1 and of a V1
# at 2.5 GHz.
_CORE_FLOPS = {
    "generic": (10e9, 10e9),
    "avx2": (60e9, 65e9),
    "avx512": (100e9, 100e9),
    "avx512bf16": (100e9, 200e9),
    "amx": (100e9, 280e9),
    "neon": (20e9, 20e9),
    "neon_bf16": (40e9, 80e9),
}
_CORE_BANDWIDTH, _SOCKET_BANDWIDTH = 20e9, 200e9  # bytes/s read; two Genoa cores read 41e9


@dataclass(frozen=True, slots=True)
class LocalGpus:
    """The first GPU this process may use and how many are like it, or why there is none, in one line."""

    device: Device | None
    num_devices: int
    note: str


def part_of(host: Device, num_workers: int) -> Device:
    """What each of several workers has of a host."""
    if num_workers == 1:
        return host
    shares = {name: getattr(host, name) / num_workers for name in ("bandwidth", "half_flops", "single_flops")}
    title = f"{host.title}, for each of {num_workers} workers"
    return replace(host, title=title, memory_bytes=host.memory_bytes // num_workers, **shares)


def find_gpus(nvml: Any = None) -> LocalGpus:
    """Never raises: no library, no driver and no permission are all a note. `nvml`: a substitute for the module pynvml."""
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return LocalGpus(None, 0, "no NVIDIA GPU is looked for: the package nvidia-ml-py is not installed")
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return LocalGpus(None, 0, f"no NVIDIA GPU: {error}")
    try:
        return _read_gpus(nvml)
    except nvml.NVMLError as error:
        return LocalGpus(None, 0, f"the NVIDIA GPU cannot be read: {error}")
    finally:
        nvml.nvmlShutdown()


def _read_gpus(nvml: Any) -> LocalGpus:
    count = nvml.nvmlDeviceGetCount()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    indices = (
        list(range(count)) if visible is None else [int(i) for i in visible.split(",") if i.isdecimal() and int(i) < count]
    )
    if not indices:
        return LocalGpus(None, 0, "no NVIDIA GPU is visible to this process")
    devices = [_read_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in indices]
    return LocalGpus(devices[0], sum(device.title == devices[0].title for device in devices), "")


def _read_gpu(nvml: Any, handle: Any) -> Device:
    """The GPU, or the first of its MIG instances, which has its memory's share of bandwidth and FLOP/s."""
    name = nvml.nvmlDeviceGetName(handle)
    name = name.decode() if isinstance(name, bytes) else name
    whole = nvml.nvmlDeviceGetMemoryInfo(handle).total
    device = match_gpu(name, whole) or _unknown_gpu(nvml, handle, name, whole)
    part = _mig_memory(nvml, handle)
    if part is None:
        return device
    share = part / whole
    rates = {"bandwidth": device.bandwidth * share, "half_flops": device.half_flops * share}
    return replace(
        device, title=f"{name} (MIG)", memory_bytes=part, single_flops=device.single_flops * share, source="its share", **rates
    )


def _mig_memory(nvml: Any, handle: Any) -> int | None:
    """Bytes of the first MIG instance; None if the GPU is not divided, or cannot be."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return None
        places = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:
        return None
    for place in range(places):
        try:
            return nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)).total
        except nvml.NVMLError:
            continue  # an index without a MIG instance
    return None


def _unknown_gpu(nvml: Any, handle: Any, name: str, memory_bytes: int) -> Device:
    """By its clocks: bus width x double data rate, 2 FLOP a core and clock, and tensor cores at four times that."""
    bus_bytes = nvml.nvmlDeviceGetMemoryBusWidth(handle) / 8
    memory_hz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6
    core_hz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6
    flops = 2 * nvml.nvmlDeviceGetNumGpuCores(handle) * core_hz
    key = "-".join(name.lower().split())
    return Device(key, name, memory_bytes, 2 * bus_bytes * memory_hz, 4 * flops, flops, 32e9, source="its clocks")


def host_device() -> Device:
    """This machine: the memory that is available now, and what our kernels reach on so many such cores."""
    cores = usable_cores()
    single, half = _CORE_FLOPS[isa()]
    bandwidth = min(cores * _CORE_BANDWIDTH, _SOCKET_BANDWIDTH)
    return Device(
        name="host",
        title=f"this machine, {cores} CPU core{'s' if cores != 1 else ''}",
        memory_bytes=available_bytes(),
        bandwidth=bandwidth,
        half_flops=half * cores,
        single_flops=single * cores,
        link=bandwidth,
        kind="host",
        source=f"what the {isa()} kernels reach a core",
        is_reached=True,
    )


def multiplies_bfloat16() -> bool:
    """Whether the kernels multiply bfloat16 natively here (AVX512-BF16, AMX, bfdot), which is what --dtype auto goes by."""
    return isa() in ("avx512bf16", "amx", "neon_bf16")


def isa() -> str:
    """The kernels' instruction set, found without loading them (and torch with them)."""
    forced = os.environ.get("PAGECLI_CPU_ISA")
    if forced in _CORE_FLOPS:
        return str(forced)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features"))).split()
    except (OSError, StopIteration):
        return "generic"
    if "asimddp" in flags:  # an aarch64
        return "neon_bf16" if {"bf16", "i8mm"} <= set(flags) else "neon"
    if "avx512f" in flags and "avx512bw" in flags:
        if "avx512_bf16" in flags and {"amx_tile", "amx_bf16", "amx_int8"} <= set(flags):
            return "amx"
        return "avx512bf16" if "avx512_bf16" in flags else "avx512"
    return "avx2" if "avx2" in flags and "fma" in flags else "generic"
