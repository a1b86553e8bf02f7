"""This process and its machine: CPU time, memory, and the energy of the processor packages where the kernel shows it (RAPL)."""

import os
from pathlib import Path

import psutil

from pagecli.profiler.recording.records import HardwareSample

POWERCAP = Path("/sys/class/powercap")
SHORTEST_SECONDS = 0.1  # of a mean: the kernel counts CPU time in hundredths of a second


class HostSampler:
    """Readings of the host, energy and CPU time counted from the first one."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._process = psutil.Process()
        self._num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._packages, self._note = _readable_packages(powercap)
        self._joules = 0.0
        self._first_cpu: float | None = None
        self._last: tuple[float, float, float | None] | None = None  # seconds, CPU seconds, joules of the sample before

    def sample(self, seconds: float) -> list[HardwareSample]:
        """One reading; utilization is of the CPUs this process may use, since a reading long enough before."""
        times = self._process.cpu_times()
        cpu = times.user + times.system
        if self._first_cpu is None:
            self._first_cpu = cpu
        joules = self._energy()
        utilization = watts = None
        elapsed = 0.0 if self._last is None else seconds - self._last[0]
        if self._last is not None and elapsed >= SHORTEST_SECONDS:
            utilization = 100 * (cpu - self._last[1]) / elapsed / self._num_cpus
            if joules is not None and self._last[2] is not None:
                watts = (joules - self._last[2]) / elapsed
        if self._last is None or elapsed >= SHORTEST_SECONDS:
            self._last = (seconds, cpu, joules)
        memory = psutil.virtual_memory()
        return [
            HardwareSample(
                seconds,
                "host",
                memory_used_bytes=memory.total - memory.available,
                process_memory_bytes=self._process.memory_info().rss,
                utilization_percent=utilization,
                power_watts=watts,
                energy_joules=joules,
                cpu_seconds=cpu - self._first_cpu,
            )
        ]

    def note(self) -> str:
        return self._note

    def close(self) -> None:
        """Does nothing: the sampler holds no resource."""

    def _energy(self) -> float | None:
        if not self._packages:
            return None
        try:
            self._joules += sum(package.joules_since_last() for package in self._packages)
        except OSError:
            self._packages, self._note = [], "the processor's energy cannot be read any more"
            return None
        return self._joules


class _Package:
    """One processor package's energy counter in microjoules, which wraps around at its maximum."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._limit = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._counter.read_text())

    def joules_since_last(self) -> float:
        now = int(self._counter.read_text())
        grown = now - self._last if now >= self._last else now + self._limit - self._last
        self._last = now
        return grown / 1e6


def _readable_packages(powercap: Path) -> tuple[list[_Package], str]:
    """The packages' counters, and a note on why there are none to read."""
    packages = []
    try:
        for folder in sorted(powercap.glob("*-rapl:*")):
            if (folder / "name").read_text().startswith("package"):
                packages.append(_Package(folder))
    except PermissionError:
        return [], "the processor's energy may be read by root only"
    except (OSError, ValueError):
        return [], "the processor's energy cannot be read"
    return packages, "" if packages else "this machine shows no energy counter of its processor"
