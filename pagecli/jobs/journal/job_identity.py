"""Which job a journal belongs to: the input, the weights and every parameter that changes a row's text.

Kept in job.json, compared when the job is run again. The input is known by its size and by pieces of its content, and each
finished row is checked against the row it was made of besides; a new modification time alone (a copy, a fresh download) is no
other input. The weights are known by the files they are in, wherever those lie. What decides only how fast a row is computed,
where it is written or who watches is left out. No secrets are kept: of a value that holds one there is only a digest.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pagecli.core.dtypes import KV_DTYPE, resolve_kv_dtype
from pagecli.jobs.storage.redaction import redact
from pagecli.model.registry import ModelSource

SAMPLE_PIECES = 16
PIECE_BYTES = 1 << 16
# Files beside the weights that change what a row becomes.
MODEL_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
)
# Fields of a job, by their path, that change no text; those below them neither.
NOT_IDENTITY = (
    *("input", "output", "order", "limit", "overwrite", "stats", "watch", "journal", "errors"),
    *("selection.limit", "columns.score", "columns.logprobs", "dry_run", "profile"),
    *("formats.output_format", "formats.compression", "formats.row_group_rows", "formats.token_texts"),
    *("engine.model", "engine.dtype", "engine.kv_dtype", "engine.kv_memory_bytes", "engine.max_num_seqs"),
    *("engine.max_batch_tokens", "engine.threads", "engine.prefix_caching", "engine.preemption", "engine.swap_memory_bytes"),
    *("engine.check_integrity", "engine.block_size", "engine.kv_policy", "engine.batching", "engine.cuda_graphs"),
)


def job_identity(job: Any, input_files: list[str], source: ModelSource, dtype: str, kv_dtype: str = "auto") -> dict[str, Any]:
    """The identity as JSON. `job` is the dataclass of what was asked for; `dtype` the resolved one. Raises OSError."""
    kv_dtype = resolve_kv_dtype(kv_dtype, dtype)
    dtypes = {"dtype": dtype} if kv_dtype == KV_DTYPE[dtype] else {"dtype": dtype, "kv_dtype": kv_dtype}
    parameters = {name: _without_secret(value) for name, value in _leaves(job, "")}
    identity = {
        "input": {str(number): _file_identity(Path(path)) for number, path in enumerate(input_files)},
        "model": {"config": repr(source.config), **dtypes, **_model_files(source)},
        "parameters": parameters,
    }
    loaded: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return loaded


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of two identities differs, each in a few words, for people; empty: the same job."""
    found = []
    inputs, inputs_now = before.get("input", {}), now.get("input", {})
    if {k: v["content"] for k, v in inputs.items()} != {k: v["content"] for k, v in inputs_now.items()}:
        sizes = [sum(v["size"] for v in files.values()) for files in (inputs, inputs_now)]
        same_size = sizes[0] == sizes[1]
        found.append("the input's content" if same_size else f"the input ({sizes[0]:,} bytes, now {sizes[1]:,})")
    for name in _changed(before.get("model", {}), now.get("model", {})):
        known = {"config": "the model's config", "dtype": "the dtype", "kv_dtype": "the KV cache's dtype"}
        found.append(known.get(name, f"the model's file {name}"))
    parameters, parameters_now = before.get("parameters", {}), now.get("parameters", {})
    for name in _changed(parameters, parameters_now):
        flag = name.rpartition(".")[2].replace("_", "-")
        values = [_shown(values.get(name)) for values in (parameters, parameters_now)]
        found.append(f"--{flag} ({values[0]}, now {values[1]})")
    return found


def has_new_time(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether an input file has another modification time than it had."""
    times = [[v.get("mtime_ns") for v in identity.get("input", {}).values()] for identity in (before, now)]
    return times[0] != times[1]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    missing = object()
    return [name for name in dict.fromkeys((*before, *now)) if before.get(name, missing) != now.get(name, missing)]


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


def _without_secret(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if redact(text) == text:
        return value
    return {"hidden": hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()}


def _shown(value: Any) -> str:
    text = "hidden" if isinstance(value, Mapping) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _file_identity(path: Path) -> dict[str, Any]:
    found = os.stat(path)
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "content": sample_digest(path)}


def sample_digest(path: Path) -> str:
    """Of a file's size and of 16 pieces of 64 KiB, the first and the last among them; of all of it up to 1 MiB."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        last = max(0, size - PIECE_BYTES)
        for number in range(SAMPLE_PIECES):
            file.seek(last * number // (SAMPLE_PIECES - 1))
            digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def _model_files(source: ModelSource) -> dict[str, str]:
    """File name -> digest, of the weights and of what makes tokens of text."""
    paths = []
    if source.weights_path is not None:
        paths = [source.weights_path, *_shards(source.weights_path)]
    for place in {source.tokenizer_path, source.weights_path.parent if source.weights_path else None} - {None}:
        assert place is not None
        paths += [place / name for name in MODEL_FILES] if place.is_dir() else [place]
    return {path.name: sample_digest(path) for path in dict.fromkeys(paths) if path.is_file()}


def _shards(index: Path) -> list[Path]:
    """The files that the index of a sharded checkpoint names."""
    if index.suffix != ".json":
        return []
    try:
        names = json.loads(index.read_bytes())["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError):  # loading will say what is wrong with it
        return []
    return [index.parent / name for name in dict.fromkeys(map(str, names))]
