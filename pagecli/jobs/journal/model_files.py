"""Identity of a model's files: weights by size, dates, inode and digest; config, tokenizer and chat template by digest.

A weights file whose size, modification and change times and inode are as they were is taken to be the same file. If one of
them differs (a copy, a fresh download, another container's view of one disk), its whole content decides, provided that a digest
of it was noted: `ContentDigests` computes those in a thread, once a job is old enough that losing it would hurt. Names and
directories do not count, so that another spelling of a path (a link, a named model) is the same model.
"""

import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pagecli.model.source import ADAPTER_FILES, ModelSource

DIGEST_AFTER_SECONDS = 20.0
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


def weights_paths(source: ModelSource) -> list[Path]:
    """The files the weights are in, those of adapters too, in a fixed order; none of random ones."""
    own = [] if source.weights_path is None else [source.weights_path, *_shards(source.weights_path)]
    folders = [folder for _, folder in source.adapters]
    folders += [] if source.merged_adapter is None else [source.merged_adapter]
    return own + [folder / name for folder in folders for name in ADAPTER_FILES]


def weights_identity(source: ModelSource) -> list[dict[str, Any]]:
    """One entry a file: size, dates, inode and a digest of a sample. Raises OSError."""
    return [_file_entry(path) for path in weights_paths(source)]


def text_digests(source: ModelSource) -> dict[str, str]:
    """File name -> digest of all of it, of the config, tokenizer and chat template. Raises OSError."""
    return {path.name: content_digest(path) for path in _text_paths(source)}


def template_shows_time(source: ModelSource) -> bool:
    """Whether a chat template may ask for the time (`strftime_now`). Raises OSError."""
    if any(_TIME_FUNCTION in path.read_bytes() for path in _text_paths(source)):
        return True
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
        if (old.get("size"), old.get("sample")) != (new["size"], new["sample"]):
            found.append(f"the model's file {path.name}")
        elif old.get("content") is None:
            found.append(f"the model's file {path.name} (written anew; what it held was not noted)")
        elif old["content"] != content_digest(path):
            found.append(f"the model's file {path.name} (its content, at the same size)")
    return found


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


class ContentDigests:
    """Computes the digests of weights files in a thread, after a while; `noted` gets the entries with them, once, in it."""

    def __init__(self, entries: list[dict[str, Any]], paths: list[Path], noted: Callable[[list[dict[str, Any]]], None]) -> None:
        self._entries = entries
        self._paths = paths
        self._noted = noted
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pagecli-digests", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        if self._ending.wait(DIGEST_AFTER_SECONDS):
            return
        try:
            noted = []
            for entry, path in zip(self._entries, self._paths, strict=True):
                content = content_digest(path, self._ending.is_set)
                noted.append({**entry, "content": content})
            if rewritten(self._entries, self._paths) is None:  # still the files that were loaded
                self._noted(noted)
        except OSError:  # of a file, or stopped: the job continues without them
            return


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
        names = json.loads(index.read_bytes())["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError):  # loading reports the fault
        return []
    return [path for path in (index.parent / name for name in dict.fromkeys(map(str, names))) if path.is_file()]
