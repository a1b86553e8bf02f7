"""NVIDIA devices through NVML, read field by field, as far as drivers, permissions and MIG allow.

A field that a device does not support or denies is queried once and None from then on; a device that is lost
ends its own series and nothing else.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pagecli.profiler.recording.records import HardwareSample

_THROTTLE_WORDS = (  # bit of nvmlClocksEventReasons, word; idling and set clocks are no throttling
    (0x004, "power cap"),
    (0x008, "hardware slowdown"),
    (0x020, "software thermal slowdown"),
    (0x040, "hardware thermal slowdown"),
    (0x080, "power brake"),
    (0x010, "sync boost"),
)
_NEVER = ("NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "INVALID_ARGUMENT")  # for this field
_GONE = ("GPU_IS_LOST", "RESET_REQUIRED", "UNINITIALIZED", "DRIVER_NOT_LOADED")  # for all of the device


class NvmlUnavailable(Exception):
    """There is no NVIDIA device to read; the message says why."""


class DeviceLost(Exception):
    """The device does not answer any more."""


@dataclass(slots=True)
class _Device:
    name: str
    handle: Any
    parent: "_Device | None" = None  # of a MIG device: the GPU it is a part of
    lost: bool = False
    missing: dict[str, str] = field(default_factory=dict)  # field -> why it cannot be read
    first_energy: int | None = None  # millijoules
    joules: float = 0.0  # by integrating power, where there is no counter
    last_power: tuple[float, float] | None = None  # (seconds, watts)


class NvmlSampler:
    """All NVIDIA devices of this machine, and the parts of those divided by MIG. Raises NvmlUnavailable.

    `nvml`: the module pynvml of nvidia-ml-py, or one with its functions and errors.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._pid = os.getpid()
        self._never = {getattr(nvml, f"NVML_ERROR_{name}") for name in _NEVER}
        self._gone = {getattr(nvml, f"NVML_ERROR_{name}") for name in _GONE}
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise NvmlUnavailable(f"no NVIDIA driver ({error})") from error
        try:
            self._devices = self._find_devices()
            if not self._devices:
                raise NvmlUnavailable("the NVIDIA driver shows no device")
        except NvmlUnavailable:
            self.close()
            raise

    def sample(self, seconds: float) -> list[HardwareSample]:
        """One reading of every device that still answers; `seconds`: the time it is marked with."""
        samples = []
        for device in self._devices:
            if device.lost:
                continue
            try:
                samples.append(self._read_device(device, seconds))
            except DeviceLost as error:
                device.lost = True
                device.missing["device"] = f"lost after {seconds:.1f} s ({error})"
        return samples

    def note(self) -> str:
        """What could not be read, in one line; empty if nothing was amiss."""
        parts = []
        for device in self._devices:
            reasons: dict[str, list[str]] = {}
            for name, why in device.missing.items():
                reasons.setdefault(why, []).append(name)
            parts += [f"{device.name}: {', '.join(names)} {why}" for why, names in reasons.items()]
        return "; ".join(parts)

    def close(self) -> None:
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return  # nothing to close: the driver is no longer loaded

    def _find_devices(self) -> list[_Device]:
        nvml, devices = self._nvml, []
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            raise NvmlUnavailable(f"NVIDIA devices cannot be counted ({error})") from error
        for index in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError:  # lost before the first reading, or not visible to this process
                continue
            whole = _Device(f"gpu{index}", handle)
            devices += [whole, *self._mig_devices(whole)]
        return devices

    def _mig_devices(self, whole: _Device) -> list[_Device]:
        """The parts a GPU is divided into: they know their memory and processes; power and clocks are the whole one's."""
        nvml, parts = self._nvml, []
        try:
            if nvml.nvmlDeviceGetMigMode(whole.handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return []
            for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole.handle)):
                try:
                    handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole.handle, index)
                except nvml.NVMLError as error:
                    if error.value != nvml.NVML_ERROR_NOT_FOUND:  # an index without a MIG instance
                        raise
                    continue
                parts.append(_Device(f"{whole.name}/mig{index}", handle, whole))
        except nvml.NVMLError:  # not supported: a GPU without MIG
            return parts
        return parts

    def _read_device(self, device: _Device, seconds: float) -> HardwareSample:
        nvml, handle = self._nvml, device.handle
        memory = self._field(device, "memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used)
        process = self._field(device, "memory by process", lambda: self._process_memory(handle))
        if device.parent is not None:
            return HardwareSample(seconds, device.name, memory_used_bytes=memory, process_memory_bytes=process)
        rates = self._field(device, "utilization", lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        milliwatts = self._field(device, "power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        watts = None if milliwatts is None else milliwatts / 1000
        return HardwareSample(
            seconds,
            device.name,
            memory_used_bytes=memory,
            process_memory_bytes=process,
            utilization_percent=None if rates is None else float(rates.gpu),
            memory_utilization_percent=None if rates is None else float(rates.memory),
            power_watts=watts,
            energy_joules=self._energy(device, seconds, watts),
            clock_mhz=self._field(device, "clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            temperature_celsius=self._field(
                device, "temperature", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
            throttle_reasons=self._throttle_reasons(device),
        )

    def _field(self, device: _Device, name: str, read: Callable[[], Any]) -> Any:
        """What `read` gives; None if it cannot be had, now or ever. Raises DeviceLost."""
        if name in device.missing:
            return None
        try:
            return read()
        except self._nvml.NVMLError as error:
            if error.value in self._gone:
                raise DeviceLost(str(error)) from error
            if error.value in self._never:
                device.missing[name] = f"cannot be read ({error})"
            return None  # a timeout, an unknown error: perhaps the next time

    def _process_memory(self, handle: Any) -> int | None:
        """Bytes that this process holds on the device; None where NVML lists other processes but not this one.

        That is so in containers, where process ids differ from the driver's.
        """
        processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        ours = [p.usedGpuMemory for p in processes if p.pid == self._pid]
        if not ours:
            return None if processes else 0
        return None if None in ours else sum(ours)

    def _energy(self, device: _Device, seconds: float, watts: float | None) -> float | None:
        """Joules since the first sample: by the device's counter, else power integrated between samples."""
        name, handle = "energy counter", device.handle
        millijoules = self._field(device, name, lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        if millijoules is not None:
            if device.first_energy is None:
                device.first_energy = millijoules
            return (millijoules - device.first_energy) / 1000
        if name not in device.missing or watts is None:
            return None
        if device.last_power is not None:
            before, watts_before = device.last_power
            device.joules += (seconds - before) * (watts + watts_before) / 2
        device.last_power = (seconds, watts)
        return device.joules

    def _throttle_reasons(self, device: _Device) -> tuple[str, ...]:
        nvml, handle = self._nvml, device.handle
        bits = self._field(device, "throttle reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        if bits is None and "throttle reasons" in device.missing:  # drivers before 535 know the older name only
            bits = self._field(device, "older throttle reasons", lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return tuple(word for bit, word in _THROTTLE_WORDS if (bits or 0) & bit)
