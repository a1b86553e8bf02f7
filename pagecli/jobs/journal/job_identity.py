"""The identity of the job that a journal belongs to: input, model, device, time and every parameter that changes a text.

Kept with the journal, compared when the job is run again. The input is known by its size and by pieces of its content, and each
finished row is checked against the row it was made of besides; a new modification time alone (a copy, a fresh download) is no
other input. The model is known by its files (model_files.py). The device counts because instruction sets differ in the last
bits of a sum, and the time because chat templates may show it. What decides only how fast a row is computed, where it is
written or who monitors it is left out. No secrets are kept: of a value that holds one there is only a digest.

`job_key` is the identity without the shard, in a few words: parts of one job have one key, and `key_difference` says what two
keys differ in.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecli.core.dtypes import IDENTITY_NAMES, KV_DTYPE
from pagecli.jobs.journal import model_files
from pagecli.jobs.storage.redaction import redact
from pagecli.model.source import ModelSource

# Fields of a job, by their path, that change no text; those below them neither.
NOT_IDENTITY = (
    *("input", "output", "order", "limit", "overwrite", "stats", "monitoring", "journal", "errors", "pool", "mixed_hardware"),
    *("selection.limit", "columns.score", "columns.logprobs", "columns.attempts", "columns.reasoning"),
    *("columns.tool_calls", "dry_run", "profile"),
    *("prompts.template_time", "open_to_model", "of_model"),  # what they make of `params` counts
    *("formats.output_format", "formats.compression", "formats.row_group_rows"),
    *("engine.merge_lora", "engine.loras"),  # paths: their files are the model's, their names too
    *("engine.model", "engine.device", "engine.dtype", "engine.kv_dtype", "engine.kv_memory_bytes", "engine.max_num_seqs"),
    "engine.quantization",
    *("engine.max_batch_tokens", "engine.threads", "engine.prefix_caching", "engine.preemption", "engine.swap_memory_bytes"),
    *("engine.check_integrity", "engine.block_size", "engine.kv_policy", "engine.batching", "engine.cuda_graphs"),
    "engine.speculate",
    *("engine.tensor_parallel_size", "engine.worker_timeout"),
)
SHARD = "selection.shard"
RETRY_ERRORS = "retry_errors"  # the output whose error rows are run again: each part has its own
ISA_VARIABLE = "PAGECLI_CPU_ISA"
MIXED = "mixed"  # in place of an instruction set's name: each row with that of its machine
_KEY_PARTS = ("device", "input", "model", "parameters", "time")


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """The device: "cpu" with the name of its instruction set, or "cuda" with the GPU's architecture."""

    kind: str
    name: str
    dtype: str  # of the weights, resolved
    supported: tuple[str, ...] = ()  # instruction sets that this machine's CPU has kernels for


def job_identity(
    job: Any,
    input_files: list[str],
    source: ModelSource,
    device: DeviceIdentity,
    kv_dtype: str,
    template_time: str | None = None,
) -> dict[str, Any]:
    """The identity as JSON. `job` is the dataclass of what was asked for. Raises OSError.

    `kv_dtype`: resolved. `template_time`: the time that chat templates see (ISO); None: that of the job's first run.
    """
    dtype = device.dtype
    dtypes = {"dtype": IDENTITY_NAMES.get(dtype, dtype)}
    if kv_dtype != KV_DTYPE[dtype]:
        dtypes["kv_dtype"] = kv_dtype
    adapters = {"adapters": [name for name, _ in source.adapters]} if source.adapters else {}
    parameters = dict(_leaves(job, ""))
    texts = "\n".join(map(_text, parameters.values()))
    if redact(texts) != texts:
        parameters = {name: _without_secret(value) for name, value in parameters.items()}
    shows_time = model_files.template_shows_time(source)
    identity = {
        "input": {str(number): _input_entry(Path(path)) for number, path in enumerate(input_files)},
        "model": {"config": repr(source.config), **dtypes, **adapters, **model_files.text_digests(source)},
        "weights": model_files.weights_identity(source),
        "device": {"kind": device.kind, "name": device.name, "supported": device.supported},
        "uses_time": shows_time,
        "time": template_time if shows_time else None,
        "parameters": parameters,
    }
    loaded: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return loaded


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two identities, in a few words; `remedy` makes the second match the first, where a setting can."""

    text: str
    remedy: str | None = None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], weights: list[Path]) -> list[Difference]:
    """Where two identities differ; empty: the same job. `weights` are the files of `now`. Raises OSError."""
    found = []
    inputs, inputs_now = before.get("input", {}), now.get("input", {})
    if {k: v["content"] for k, v in inputs.items()} != {k: v["content"] for k, v in inputs_now.items()}:
        sizes = [sum(v["size"] for v in files.values()) for files in (inputs, inputs_now)]
        same_size = sizes[0] == sizes[1]
        found.append(Difference("the input's content" if same_size else f"the input ({sizes[0]:,} bytes, now {sizes[1]:,})"))
    found += _device_differences(before.get("device", {}), now.get("device", {}))
    for name in _changed(before.get("model", {}), now.get("model", {})):
        known = {
            "config": "the model's config",
            "dtype": "the dtype",
            "kv_dtype": "the KV cache's dtype",
            "adapters": "the names of --lora",
        }
        found.append(Difference(known.get(name, f"the model's file {name}")))
    found += map(Difference, model_files.changed_weights(before.get("weights", []), now.get("weights", []), weights))
    if now.get("time") is not None and before.get("time") != now["time"]:
        values = [_shown(identity.get("time")) for identity in (before, now)]
        found.append(Difference(f"--template-time ({values[0]}, now {values[1]})"))
    parameters, parameters_now = before.get("parameters", {}), now.get("parameters", {})
    for name in _changed(parameters, parameters_now):
        flag = name.rpartition(".")[2].replace("_", "-")
        values = [_shown(values.get(name)) for values in (parameters, parameters_now)]
        found.append(Difference(f"--{flag} ({values[0]}, now {values[1]})"))
    return found


def _device_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    kinds, names = [[device.get(key) for device in (before, now)] for key in ("kind", "name")]
    if kinds[0] != kinds[1]:
        return [Difference(f"the device ({kinds[0]}, now {kinds[1]})", f"with --device {kinds[0]}")]
    if names[0] == names[1]:
        return []
    if MIXED in names:
        remedy = "with --allow-mixed-hardware" if names[0] == MIXED else "without --allow-mixed-hardware"
        return [Difference(f"the instruction set ({names[0]}, now {names[1]})", remedy)]
    if kinds[0] != "cpu":
        return [Difference(f"the GPU's architecture ({names[0]}, now {names[1]})", f"on a GPU of {names[0]}")]
    here = names[0] in now.get("supported", ())
    remedy = f"with {ISA_VARIABLE}={names[0]}" if here else f"on a machine that has {names[0]}"
    return [Difference(f"the CPU's instruction set ({names[0]}, now {names[1]})", remedy)]


def has_new_time(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether an input file has another modification time than it had."""
    times = [[v.get("mtime_ns") for v in identity.get("input", {}).values()] for identity in (before, now)]
    return times[0] != times[1]


def job_key(identity: Mapping[str, Any], weights: list[Path], **more: Any) -> str:
    """One text for all parts of a job, without spaces: the device by name, all else by digests. Raises OSError.

    `more` are parameters that a job may change when it resumes, and that all parts must have in common. Reads the weights
    through: parts may be made on machines whose files have dates of their own.
    """
    contents = [model_files.kept_content_digest(path) for path in weights]
    parameters = {name: value for name, value in identity["parameters"].items() if name not in (SHARD, RETRY_ERRORS)}
    parts = {
        "input": [entry["content"] for entry in identity["input"].values()],
        "model": [identity["model"], contents],
        "parameters": {**parameters, **more},
        "time": identity["time"],
    }
    return "-".join([identity["device"]["name"], *(_short_digest(parts[name]) for name in _KEY_PARTS[1:])])


def key_difference(one: str, other: str) -> tuple[str, str]:
    """Where two different job keys differ: (text, hint)."""
    pairs = dict(zip(_KEY_PARTS, zip(one.rsplit("-", 4), other.rsplit("-", 4), strict=False), strict=False))
    different = [name for name, (mine, others) in pairs.items() if mine != others]
    if "device" in different and len(different) <= 2:  # the dtype may follow the instruction set
        mine, others = pairs["device"]
        return f"computed on {mine} and on {others}", f"run one of them again on the other's device ({ISA_VARIABLE}={mine})"
    names = {
        "input": "the input",
        "model": "the model",
        "parameters": "a flag",
        "time": "--template-time",
        "device": "the device",
    }
    return (
        f"what differs: {', '.join(names[name] for name in different)}",
        "run all parts with the same command but for --shard",
    )


def _short_digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode("ascii"), digest_size=6).hexdigest()


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]  # what is left out is None


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of every field of nested dataclasses that belongs to the identity."""
    for field in dataclasses.fields(value):
        name, inner = f"{path}{field.name}", getattr(value, field.name)
        if name in NOT_IDENTITY or callable(inner):
            continue
        if dataclasses.is_dataclass(inner):
            yield from _leaves(inner, f"{name}.")
        else:
            yield name, inner if isinstance(inner, (bool, int, float, type(None), tuple, list)) else str(inner)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _without_secret(value: Any) -> Any:
    text = _text(value)
    if redact(text) == text:
        return value
    return {"hidden": hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()}


def _shown(value: Any) -> str:
    text = "hidden" if isinstance(value, Mapping) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _input_entry(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "content": model_files.sample_digest(path)}
