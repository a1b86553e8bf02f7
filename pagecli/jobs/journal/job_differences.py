"""What two identities of jobs (job_identity.py) differ in: of a job that is run again, and of the parts of one job.

`job_key` is the identity without the shard, in a few words: parts of one job have one key, and `key_difference` says what two
keys differ in.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecli.jobs.journal.job_identity import MIXED, content_digest, kept_content_digest

SHARD = "selection.shard"
RETRY_ERRORS = "retry_errors"  # the output whose error rows are run again: each part has its own
ISA_VARIABLE = "PAGECLI_CPU_ISA"
_KEY_PARTS = ("device", "input", "model", "parameters", "time")


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
        names = [identity.get("model", {}).get(name, []) for identity in (before, now)] if name == "adapters" else []
        shown = f" ({', '.join(names[0]) or 'none'}, now {', '.join(names[1]) or 'none'})" if names else ""
        found.append(Difference(known.get(name, f"the model's file {name}") + shown))
    found += map(Difference, changed_weights(before.get("weights", []), now.get("weights", []), weights))
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


def changed_weights(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], paths: list[Path]) -> list[str]:
    """Files that differ or cannot be compared, in a few words; `paths` are the files of `now`.

    Reads a file through where its dates or inode differ. Raises OSError.
    """
    if len(before) != len(now):
        return [f"the model's weights (in {len(before)} files, now in {len(now)})"]
    found = []
    for old, new, path in zip(before, now, paths, strict=True):
        if all(old.get(name) == new[name] for name in ("size", "mtime_ns", "ctime_ns", "inode", "sample")):
            continue
        file = f"the model's file {path}"
        if (old.get("size"), old.get("sample")) != (new["size"], new["sample"]):
            found.append(file)
        elif old.get("content") is None:
            found.append(f"{file} (written anew; what it held was not noted)")
        elif old["content"] != content_digest(path):
            found.append(f"{file} (its content, at the same size)")
    return found


def has_new_time(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether an input file has another modification time than it had."""
    times = [[v.get("mtime_ns") for v in identity.get("input", {}).values()] for identity in (before, now)]
    return times[0] != times[1]


def job_key(identity: Mapping[str, Any], weights: list[Path], **more: Any) -> str:
    """One text for all parts of a job, without spaces: the device by name, all else by digests. Raises OSError.

    `more` are parameters that a job may change when it resumes, and that all parts must have in common. Reads the weights
    through: parts may be made on machines whose files have dates of their own.
    """
    contents = [kept_content_digest(path) for path in weights]
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


def _shown(value: Any) -> str:
    text = "hidden" if isinstance(value, Mapping) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
