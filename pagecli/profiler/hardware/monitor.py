"""Samples GPUs and host in a thread of its own, from the beginning of a run to its end, also if the run fails."""

import importlib
import threading
import time
from types import TracebackType
from typing import Any, Protocol

from pagecli.profiler.hardware.host_usage import HostSampler
from pagecli.profiler.hardware.nvml import NvmlSampler, NvmlUnavailable
from pagecli.profiler.recording.records import HardwareSample

INTERVAL_SECONDS = 0.2
MAX_ROUNDS = 5000  # readings of all devices kept; twice as far apart when there are more
JOIN_SECONDS = 5.0  # how long the run's end waits for a reading under way


class Sampler(Protocol):
    """One source of readings."""

    def sample(self, seconds: float) -> list[HardwareSample]: ...
    def note(self) -> str: ...
    def close(self) -> None: ...


class HardwareMonitor:
    """`with HardwareMonitor(origin) as monitor: run()`; afterwards `monitor.samples` and `monitor.note`.

    `origin`: the zero of time, on time.perf_counter(). `nvml`: a substitute for pynvml. The thread never raises:
    `note` describes its errors.
    """

    def __init__(self, origin: float, interval: float = INTERVAL_SECONDS, nvml: Any = None) -> None:
        self._origin = origin
        self._interval = interval
        self._nvml = nvml
        self._rounds: list[list[HardwareSample]] = []
        self._notes: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pagecli-hardware", daemon=True)

    @property
    def samples(self) -> list[HardwareSample]:
        """All readings, in order of time."""
        return [sample for readings in list(self._rounds) for sample in readings]

    @property
    def note(self) -> str:
        """What could not be read, in one line."""
        return "; ".join(note for note in self._notes if note)

    def __enter__(self) -> "HardwareMonitor":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive():  # a driver that hangs; the thread is a daemon and does not delay the exit
            self._notes.append("a reading of the hardware did not come back")

    def _watch(self) -> None:
        samplers: list[Sampler] = []
        try:
            samplers += self._open()
            while not self._stop.wait(self._interval if self._rounds else 0):
                self._read(samplers)
            self._read(samplers)  # the end of the run: energy and CPU time are whole
        except Exception as error:
            self._notes.append(f"hardware was not read to the end ({type(error).__name__}: {error})")
        finally:
            for sampler in samplers:
                self._notes.append(sampler.note())
                sampler.close()

    def _open(self) -> list[Sampler]:
        host = HostSampler()
        try:
            return [NvmlSampler(self._nvml or importlib.import_module("pynvml")), host]
        except (NvmlUnavailable, ImportError) as error:
            why = error if isinstance(error, NvmlUnavailable) else "nvidia-ml-py is not installed"
            self._notes.append(f"no GPU readings: {why}; CPU time and memory take their place")
            return [host]

    def _read(self, samplers: list[Sampler]) -> None:
        seconds = time.perf_counter() - self._origin
        self._rounds.append([sample for sampler in samplers for sample in sampler.sample(seconds)])
        if len(self._rounds) > MAX_ROUNDS:
            self._rounds = self._rounds[::2]
            self._interval *= 2
