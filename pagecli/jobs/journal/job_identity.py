"""The identity of the job that a journal belongs to: input, model, device, time and every parameter that changes a text.

Kept with the journal, compared when the job is run again (job_differences.py). The input is known by its size and by pieces of
its content, and each finished row is checked against the row it was made of besides; a new modification time alone (a copy, a
fresh download) is no other input. The device counts because instruction sets differ in the last bits of a sum, and the time
because chat templates may show it. What decides only how fast a row is computed, where it is written or who monitors it is
left out. No secrets are kept: of a value that holds one there is only a digest.

The model is known by its files: weights by size, dates, inode and digest; config, tokenizer and chat template by digest. A
weights file whose size, modification and change times and inode are as they were is taken to be the same file. If one of them
differs (a copy, a fresh download, another container's view of one disk), its whole content decides, provided that a digest of
it was noted (content_digests.py). Names and directories do not count, so that another spelling of a path (a link, a named
model) is the same model.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagecli.core.dtypes import IDENTITY_NAMES, KV_DTYPE
from pagecli.core.json_text import parsed
from pagecli.jobs.storage.redaction import redact
from pagecli.model.source import ADAPTER_FILES, ModelSource

if TYPE_CHECKING:
    from pagecli.engine.loaded_model import ResolvedModel

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
MIXED = "mixed"  # in place of an instruction set's name: each row with that of its machine
SAMPLE_PIECES = 16
PIECE_BYTES = 1 << 16
READ_BYTES = 4 << 20
MAX_TEXT_BYTES = 64 << 20  # of a file beside the weights that is a tokenizer's, a template or a config
_TEXTS = re.compile(
    r"token|tekken|vocab|merges|template|special|^(generation_)?config\.json$|\.(model|spm|tiktoken|jinja)$", re.IGNORECASE
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf", ".onnx", ".h5", ".msgpack", ".npz", ".index.json")
_TIME_FUNCTION = b"strftime_now"
_HEADER_BYTES = 32 << 20  # of a .gguf file, within which its chat template is


def job_identity(
    job: Any,
    input_files: list[str],
    found: "ResolvedModel",
    isas: tuple[str, tuple[str, ...]],
    template_time: str | None = None,
) -> dict[str, Any]:
    """The identity as JSON. `job` is the dataclass of what was asked for. Raises OSError.

    `isas`: the name of the device's instruction set, or of the GPU's architecture, and the instruction sets that this machine's
    CPU has kernels for. `template_time`: the time that chat templates see (ISO); None: that of the job's first run.
    """
    source = found.source
    dtypes = {"dtype": IDENTITY_NAMES.get(found.dtype, found.dtype)}
    if found.kv_dtype != KV_DTYPE[found.dtype]:
        dtypes["kv_dtype"] = found.kv_dtype
    adapters = {"adapters": [name for name, _ in source.adapters]} if source.adapters else {}
    parameters = dict(_leaves(job, ""))
    texts = "\n".join(map(_text, parameters.values()))
    if redact(texts) != texts:
        parameters = {name: _without_secret(value) for name, value in parameters.items()}
    digests, uses_time = text_facts(source)
    uses_time = uses_time or header_shows_time(source)
    identity = {
        "input": {str(number): _input_entry(Path(path)) for number, path in enumerate(input_files)},
        "model": {"config": repr(source.config), **dtypes, **adapters, **digests},
        "weights": weights_identity(source),
        "device": {"kind": found.device, "name": isas[0], "supported": isas[1]},
        "uses_time": uses_time,
        "time": template_time if uses_time else None,
        "parameters": parameters,
    }
    loaded: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return loaded


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


def _input_entry(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "content": sample_digest(path)}


def weights_paths(source: ModelSource) -> list[Path]:
    """The files the weights are in, those of adapters too, in a fixed order; none of random ones."""
    own = [] if source.weights_path is None else [source.weights_path, *_shards(source.weights_path)]
    folders = [folder for _, folder in source.adapters]
    folders += [] if source.merged_adapter is None else [source.merged_adapter]
    return own + [folder / name for folder in folders for name in ADAPTER_FILES]


def weights_identity(source: ModelSource) -> list[dict[str, Any]]:
    """One entry a file: size, dates, inode and a digest of a sample. Raises OSError."""
    return [_file_entry(path) for path in weights_paths(source)]


def text_facts(source: ModelSource) -> tuple[dict[str, str], bool]:
    """(file name -> digest of all of it, of the config, tokenizer and chat template; whether one of them may ask for the time,
    by `strftime_now`). Raises OSError."""
    digests, shows_time = {}, False
    for path in _text_paths(source):
        text = path.read_bytes()
        digests[path.name] = hashlib.blake2b(text, digest_size=16).hexdigest()
        shows_time = shows_time or _TIME_FUNCTION in text
    return digests, shows_time


def header_shows_time(source: ModelSource) -> bool:
    """Whether the chat template of a .gguf file may ask for the time. Raises OSError."""
    path = source.tokenizer_path
    if path is None or not path.is_file():
        return False
    overlap, tail = len(_TIME_FUNCTION) - 1, b""
    with path.open("rb", buffering=0) as file:
        while file.tell() < _HEADER_BYTES and (piece := file.read(READ_BYTES)):
            if _TIME_FUNCTION in piece or _TIME_FUNCTION in tail + piece[:overlap]:
                return True
            tail = piece[-overlap:]
    return False


def rewritten(entries: Sequence[Mapping[str, Any]], paths: list[Path]) -> str | None:
    """The first file that is no longer as `entries` say, by its size, dates and inode, or no longer there."""
    for entry, path in zip(entries, paths, strict=True):
        try:
            dates = _dates(path)
        except OSError:
            return str(path)
        if any(entry[name] != value for name, value in dates.items()):
            return str(path)
    return None


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


def content_digest(path: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """Of all of a file; about 1 GB a second. Raises OSError, InterruptedError when `stopped`."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb", buffering=0) as file:
        while piece := file.read(READ_BYTES):
            if stopped():
                raise InterruptedError
            digest.update(piece)
    return digest.hexdigest()


def kept_content_digest(path: Path) -> str:
    """content_digest, computed once in a process as long as the file's dates stay. Raises OSError."""
    return _content_digest_at(path, tuple(_dates(path).values()))


@functools.lru_cache(maxsize=1024)
def _content_digest_at(path: Path, dates: tuple[int, ...]) -> str:
    return content_digest(path)


def _file_entry(path: Path) -> dict[str, Any]:
    return {**_dates(path), "sample": sample_digest(path), "content": None}


def _dates(path: Path) -> dict[str, int]:
    found = os.stat(path)
    times = {"mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}
    return {"size": found.st_size, "inode": found.st_ino, **times}


def _text_paths(source: ModelSource) -> Iterator[Path]:
    weights = source.weights_path
    for folder in dict.fromkeys(path if path.is_dir() else path.parent for path in (source.tokenizer_path, weights) if path):
        for path in sorted(folder.iterdir()):
            is_text = _TEXTS.search(path.name) and not path.name.lower().endswith(_WEIGHTS)
            if is_text and path.is_file() and path.stat().st_size <= MAX_TEXT_BYTES:
                yield path


def _shards(index: Path) -> list[Path]:
    """The files that the index of a sharded checkpoint names; the other parts of a split GGUF model."""
    if index.suffix == ".gguf":
        from pagecli.model.readers.gguf_header import gguf_parts

        return [part for part in gguf_parts(index)[1:] if part.is_file()]
    if index.suffix != ".json":
        return []
    try:
        names = parsed(index.read_bytes())["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError):  # loading reports the fault
        return []
    return [path for path in (index.parent / name for name in dict.fromkeys(map(str, names))) if path.is_file()]
