"""The job's identity for the journal and for --shard: its files, its device and its time."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagecli.core.engine_config import EngineConfig
from pagecli.devices import registry
from pagecli.devices.cpu import kernels
from pagecli.errors import InputError, ModelError, UsageError
from pagecli.jobs.journal import model_files
from pagecli.jobs.journal.job_identity import DeviceIdentity, job_identity, job_key
from pagecli.jobs.readers.open_input import input_files
from pagecli.model.source import ModelSource

if TYPE_CHECKING:
    from pagecli.cli.generate.job import GenerateJob


@dataclass(frozen=True, slots=True)
class IdentifiedJob:
    """`identity` is job_identity's; `weights` are the files that it describes."""

    job: "GenerateJob"
    identity: dict[str, Any]
    weights: list[Path]

    def key(self, template_time: datetime) -> str:
        """The key that all shards of one job share. Raises ModelError."""
        time = template_time.isoformat(timespec="seconds") if self.identity["uses_time"] else None
        more = {"limit": self.job.selection.limit, "output_format": self.job.formats.output_format}
        try:
            return job_key({**self.identity, "time": time}, self.weights, **more)
        except OSError as error:
            raise ModelError(f"{error.filename} cannot be read: {error.strerror}", "check the model's files") from error

    def check_loaded(self) -> None:
        """To be called after loading: checks that the weights files have not changed since identify(). Raises ModelError."""
        changed = model_files.rewritten(self.identity["weights"], self.weights)
        if changed is not None:
            raise ModelError(f"{changed} was changed while it was loaded", "run the same command again when it is complete")


def identify(job: "GenerateJob", source: ModelSource) -> IdentifiedJob:
    """Raises UsageError, InputError, ModelError."""
    time, inputs, device = job.prompts.template_time, input_files(job.input), _device_identity(job.engine)
    shown_time = None if time is None else time.isoformat(timespec="seconds")
    try:
        identity = job_identity(job, inputs, source, device, job.engine.kv_dtype, shown_time)
    except OSError as error:
        kind = InputError if error.filename in inputs else ModelError
        raise kind(f"{error.filename} cannot be read: {error.strerror}", "check that it is there and readable") from error
    if job.selection.shard is not None and identity["uses_time"] and time is None:
        today = datetime.now().date().isoformat()
        raise UsageError(
            "--shard: the model's chat template shows the time, which all parts must have in common",
            f"give each of them one time: --template-time {today}",
        )
    return IdentifiedJob(job, identity, model_files.weights_paths(source))


def _device_identity(config: EngineConfig) -> DeviceIdentity:
    device = registry.choose(config.device)
    supported = tuple(kernels.supported_isas()) if device.name == "cpu" else ()
    return DeviceIdentity(device.name, device.isa, device.resolve_dtype(config.dtype), supported)
