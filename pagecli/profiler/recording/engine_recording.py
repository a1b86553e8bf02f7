"""An engine recorded from now on: its steps and requests, and the machine beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pagecli.profiler.hardware.monitor import HardwareMonitor
from pagecli.profiler.recording.engine_settings import run_metadata
from pagecli.profiler.recording.recorder import Recorder
from pagecli.profiler.recording.records import Recording

if TYPE_CHECKING:
    from pagecli.engine.engine import Engine
    from pagecli.errors import InputError


class EngineRecording:
    """Recorded until `finish`. Raises InputError where `steps_path`, for every step, cannot be written."""

    def __init__(self, title: str, engine: "Engine", model: str, steps_path: Path | None = None) -> None:
        """`model`: its name, as the recording may show it."""
        self._engine = engine
        self._recorder = Recorder(title, run_metadata(engine) | {"model": model}, steps_path)
        engine.listener = self._recorder
        self._monitor = HardwareMonitor(self._recorder.origin)
        self._monitor.__enter__()

    @property
    def problem(self) -> "InputError | None":
        """Why not every step was written."""
        return self._recorder.problem

    def finish(self) -> Recording:
        """The recording so far. Call it once."""
        self._monitor.__exit__(None, None, None)
        self._engine.listener = None
        recording = self._recorder.finish()
        if ranks := self._engine.loaded.ranks():
            recording.metadata["ranks"] = ranks
        recording.hardware, recording.hardware_note = self._monitor.samples, self._monitor.note
        return recording


@dataclass(frozen=True, slots=True)
class WorkerRecording:
    """Begins the recording of an engine in the process of a pool's worker, where it is sent."""

    title: str
    model: str

    def __call__(self, engine: "Engine") -> EngineRecording:
        return EngineRecording(self.title, engine, self.model)
