"""The number of compute threads: flag, OMP_NUM_THREADS, or the physical cores of this process."""

import os
from pathlib import Path


def configure(num_threads: int | None) -> int:
    """Use `num_threads` threads, or OMP_NUM_THREADS, or one for each core this process may use; returns the number."""
    from pagecli.devices.cpu import kernels

    chosen = num_threads or _omp_num_threads() or usable_cores()
    kernels.set_num_threads(chosen)
    return chosen


def _omp_num_threads() -> int | None:
    """The usual variable that limits a program's threads; None if it is unset or not a number."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() and int(value) > 0 else None


def usable_cores() -> int:
    """Physical cores in this process's affinity mask, and no more than its cgroup's CPU quota."""
    cpus = os.sched_getaffinity(0)
    cores = {_core_of(cpu) for cpu in cpus}
    return max(1, min(len(cores), _cgroup_quota() or len(cores)))


def _core_of(cpu: int) -> tuple[str, str]:
    """A key of the CPU's physical core, equal for its hardware threads."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "unknown", str(cpu)


def _cgroup_quota() -> int | None:
    """Whole CPUs that the cgroup's quota allows, at least 1; None if there is no quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, round(int(quota) / int(period)))
