"""A stand-in for pynvml with its functions, its structures' fields and its own errors, by rules the real library follows.

Calls before nvmlInit or after nvmlShutdown are refused; every field has a value or an error code; a MIG device knows its
memory and its processes, and a GPU divided by MIG no utilization.
"""

from types import SimpleNamespace

import pynvml

GIB = 1 << 30


class Gpu:
    """One device: `fields` of a function's name to a value, an error code, or a function of how often it was read."""

    def __init__(self, mig=None, places=7, **fields):
        self.fields = DEFAULTS | fields
        self.mig = mig  # None: cannot be divided; else the parts, None for a place not taken
        self.places = places
        self.num_reads = {}

    def read(self, name):
        self.num_reads[name] = self.num_reads.get(name, 0) + 1
        value = self.fields[name]
        if callable(value):
            value = value(self.num_reads[name])
        if isinstance(value, Error):
            raise pynvml.NVMLError(value.code)
        return value


class Error:
    def __init__(self, code):
        self.code = code


def process(pid, used):
    return SimpleNamespace(pid=pid, usedGpuMemory=used, gpuInstanceId=0xFFFFFFFF, computeInstanceId=0xFFFFFFFF)


DEFAULTS = {
    "MemoryInfo": SimpleNamespace(total=80 * GIB, free=50 * GIB, used=30 * GIB),
    "ComputeRunningProcesses": [],
    "UtilizationRates": SimpleNamespace(gpu=90, memory=40),
    "PowerUsage": 300_000,  # milliwatts
    "TotalEnergyConsumption": lambda n: 5_000_000 + 60_000 * n,  # millijoules since the driver was loaded
    "ClockInfo": 1980,
    "Temperature": 61,
    "CurrentClocksEventReasons": 0x1 | 0x4,
    "CurrentClocksThrottleReasons": 0x1 | 0x4,
}


class FakeNvml:
    """Use it where the module pynvml would be."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *gpus, init_error=None):
        self._gpus = gpus
        self._init_error = init_error
        self.num_users = 0

    def __getattr__(self, name):
        if name.startswith("NVML_"):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def _ready(self):
        if self.num_users <= 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)

    def nvmlInit(self):
        if self._init_error is not None:
            raise pynvml.NVMLError(self._init_error)
        self.num_users += 1

    def nvmlShutdown(self):
        self._ready()
        self.num_users -= 1

    def nvmlDeviceGetCount(self):
        self._ready()
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._ready()
        gpu = self._gpus[index]
        if isinstance(gpu, Error):
            raise pynvml.NVMLError(gpu.code)
        return gpu

    def nvmlDeviceGetMigMode(self, device):
        self._ready()
        if device.mig is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(bool(device.mig)), int(bool(device.mig))]

    def nvmlDeviceGetMaxMigDeviceCount(self, device):
        self._ready()
        return device.places

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device, index):
        self._ready()
        if index >= len(device.mig) or device.mig[index] is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return device.mig[index]

    def _read(self, device, name):
        self._ready()
        return device.read(name)

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        return self._read(handle, "MemoryInfo")

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return self._read(handle, "ComputeRunningProcesses")

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._read(handle, "UtilizationRates")

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._read(handle, "PowerUsage")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._read(handle, "TotalEnergyConsumption")

    def nvmlDeviceGetClockInfo(self, handle, type):
        assert type == pynvml.NVML_CLOCK_SM
        return self._read(handle, "ClockInfo")

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._read(handle, "Temperature")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._read(handle, "CurrentClocksEventReasons")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self._read(handle, "CurrentClocksThrottleReasons")


_MIG_UNSUPPORTED = Error(pynvml.NVML_ERROR_NOT_SUPPORTED)


def mig_part(used=5 * GIB, **fields):
    """A MIG device: everything but memory and processes is not supported on its handle."""
    closed = dict.fromkeys(DEFAULTS, _MIG_UNSUPPORTED)
    memory = SimpleNamespace(total=10 * GIB, free=10 * GIB - used, used=used)
    return Gpu(**closed | {"MemoryInfo": memory, "ComputeRunningProcesses": []} | fields)
