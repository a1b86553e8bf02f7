"""What a worker must have in common with its driver and with the others, so that any of them may compute any row."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagecli.core.engine_config import EngineConfig
from pagecli.engine.loaded_model import hardware
from pagecli.errors import PagecliError, UsageError
from pagecli.jobs.journal import job_identity
from pagecli.model.source import ModelSource

_OF_ENGINES = {"dtype": ("dtype", "--dtype"), "kv_blocks_total": ("number of KV blocks", "--kv-memory")}


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one process: the device's instruction set, those that it could use, and a digest of the model's files."""

    host: str
    isa: str
    supported: tuple[str, ...]  # best first
    model: str


def facts_here(config: EngineConfig, source: ModelSource, host: str) -> Facts:
    """Raises UsageError, ModelError, OSError."""
    samples = [job_identity.sample_digest(path) for path in job_identity.weights_paths(source)]
    files = json.dumps([samples, job_identity.text_facts(source)[0]], sort_keys=True)
    digest = hashlib.blake2b(files.encode(), digest_size=8).hexdigest()
    return Facts(host, *hardware(config.device), digest)


def difference(driver: Facts, worker: Facts, mixed: bool) -> PagecliError | None:
    """Why the worker must not compute rows of the driver's job; `mixed`: any instruction set may."""
    if worker.model != driver.model:
        return UsageError(f"the model's files on {worker.host} differ from those on {driver.host}", "copy them there again")
    if mixed or worker.isa == driver.isa:
        return None
    common = next((isa for isa in driver.supported if isa in worker.supported), None)
    same = f"PAGECLI_CPU_ISA={common} gives all of them one, or " if common else ""
    return UsageError(
        f"the hardware differs, and texts would: {driver.host} computes with {driver.isa}, {worker.host} with {worker.isa}",
        f"{same}--allow-mixed-hardware takes them as they are",
    )


def engine_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> PagecliError | None:
    """As `difference`, by the statistics of two engines: they would refuse other rows, or compute other bits."""
    for name, (what, flag) in _OF_ENGINES.items():
        if one[name] != other[name]:
            text = f"workers differ: the {what} is {one[name]} on {one['host']} and {other[name]} on {other['host']}"
            return UsageError(text, f"give it: {flag}")
    return None
