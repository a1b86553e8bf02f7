"""Checks of the machine: instruction set, cores, memory, GPU."""

import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import Any

from pagecli.cli.doctor.check import Check, Health, gibibytes
from pagecli.errors import PagecliError, reason_of

SMALLEST_MEMORY, SMALL_MEMORY = 512 << 20, 2 << 30
DRIVER = Path("/proc/driver/nvidia/version")
REINSTALL = "install pagecli again on this machine: pip install --force-reinstall --no-cache-dir --no-deps pagecli"


def native_kernels() -> Check:
    """The extension module loads, and which of its instruction sets runs."""
    try:
        from pagecli.devices.cpu import kernels
    except PagecliError as error:
        return Check("kernels", Health.fail, error.message, error.hint)
    except (ImportError, OSError) as error:
        return Check("kernels", Health.fail, f"the native module does not load: {reason_of(error)}", REINSTALL)
    isa, supported = kernels.isa_name(), kernels.supported_isas()
    details = {"isa": isa, "supported_isas": supported, "forced_isa": os.environ.get("PAGECLI_CPU_ISA") or None}
    found = f"native, CPU instruction set {isa} (of {', '.join(supported)})"
    if isa != supported[0]:
        return Check("kernels", Health.warn, found, f"unset PAGECLI_CPU_ISA to use {supported[0]}", details)
    if isa == "generic":
        return Check(
            "kernels",
            Health.warn,
            found,
            "a CPU with AVX2, AVX-512 or NEON's dot products is several times faster",
            details,
        )
    return Check("kernels", Health.ok, found, None, details)


def cores() -> Check:
    """CPUs that the affinity mask and the cgroup allow this process."""
    from pagecli.engine.loaded_model import default_threads, usable_cores

    num_cpus, num_allowed, num_usable = os.cpu_count() or 1, len(os.sched_getaffinity(0)), usable_cores()
    limit = os.environ.get("OMP_NUM_THREADS")
    details = {"cpus": num_cpus, "cpus_allowed": num_allowed, "usable_cores": num_usable, "omp_num_threads": limit}
    found = f"{num_usable} usable of {num_cpus} CPUs"
    if default_threads() != num_usable:
        return Check("cores", Health.warn, f"{found}, OMP_NUM_THREADS={limit}", "unset it, or give --threads", details)
    return Check("cores", Health.ok, found, None, details)


def processes() -> Check:
    """What jobs over several processes find here: NUMA nodes, memory that processes share, Ray."""
    from pagecli.engine.placement import numa_nodes

    nodes, ray = numa_nodes(), _ray_version()
    details = {"numa_nodes": nodes, "shares_memory": hasattr(os, "memfd_create"), "ray": ray}
    count = f"{len(nodes)} NUMA node{'s' if len(nodes) > 1 else ''}, {'no Ray' if ray is None else f'Ray {ray}'}"
    if not details["shares_memory"]:
        hint = "--tensor-parallel-size needs Linux; --workers and --shard do without"
        return Check("processes", Health.warn, f"{count}, no shared memory (memfd_create)", hint, details)
    return Check("processes", Health.ok, f"{count}, shared memory for ranks", None, details)


def _ray_version() -> str | None:
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return None


def memory() -> Check:
    """Memory that this process can still allocate, cgroup limits included."""
    from pagecli.devices.memory import available_bytes

    available = available_bytes()
    details = {"available_bytes": available}
    found = f"{gibibytes(available)} available"
    if available < SMALLEST_MEMORY:
        return Check("memory", Health.fail, found, "stop other programs, or raise the limit of the container", details)
    if available < SMALL_MEMORY:
        return Check("memory", Health.warn, found, "only small models fit; --dtype bfloat16 halves weights and cache", details)
    return Check("memory", Health.ok, found, None, details)


def gpu() -> Check:
    """NVIDIA devices and their driver by NVML, and whether there are kernels for them."""
    try:
        import pynvml
    except ImportError:
        if DRIVER.exists():
            return Check("GPU", Health.warn, "a driver, but it cannot be asked", "pip install nvidia-ml-py")
        return Check("GPU", Health.ok, "none; the CPU computes", None, {"devices": []})
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if DRIVER.exists():
            hint = "driver and library differ after an update: restart the machine, or see nvidia-smi"
            return Check("GPU", Health.warn, f"the driver does not answer: {error}", hint)
        return Check("GPU", Health.ok, "none; the CPU computes", None, {"devices": []})
    try:
        return _of_devices(pynvml)
    except pynvml.NVMLError as error:
        return Check("GPU", Health.warn, f"a GPU that does not answer: {error}", "see nvidia-smi, and dmesg for Xid errors")
    finally:
        pynvml.nvmlShutdown()


def _of_devices(nvml: Any) -> Check:
    devices: list[dict[str, Any]] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        used = nvml.nvmlDeviceGetMemoryInfo(handle)
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        memory_bytes = {"total_bytes": int(used.total), "free_bytes": int(used.free)}
        devices.append({"name": _text(nvml.nvmlDeviceGetName(handle)), "capability": f"{major}.{minor}", **memory_bytes})
    cuda = int(nvml.nvmlSystemGetCudaDriverVersion())
    details = {
        "driver": _text(nvml.nvmlSystemGetDriverVersion()),
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "devices": devices,
        "has_kernels": importlib.util.find_spec("pagecli.devices.cuda._cuda") is not None,
    }
    if not devices:
        return Check("GPU", Health.ok, "a driver without a device; the CPU computes", None, details)
    first = devices[0]
    more = f" and {len(devices) - 1} more" if len(devices) > 1 else ""
    sizes = f"{gibibytes(first['free_bytes'])} of {gibibytes(first['total_bytes'])} free"
    found = f"{first['name']}{more}, {sizes}, driver {details['driver']}, CUDA {details['cuda']}"
    if not details["has_kernels"]:
        hint = "the CPU computes: this pagecli was built without CUDA kernels; install it where nvcc is found"
        return Check("GPU", Health.warn, found, hint, details)
    return Check("GPU", Health.ok, found, None, details)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
