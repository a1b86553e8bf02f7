"""A model's tokenizer through transformers, which takes seconds to import; or from the copy kept of it at an earlier start.

A copy is one file: a line of JSON, which says what it is and what the rest hashes to, and the rest. Files of other users are
not read. On any error there is no copy.

Its key is a digest of all that transformers builds the tokenizer from: equal keys, equal tokenizers. transformers reads more
than tokenizer.json: the configs, the names of files and even the directory's own. So the key covers all files but weights, and
the versions of the packages. Where transformers may read files outside of these, there is no key.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecli import __version__
from pagecli.core.json_text import parsed
from pagecli.errors import ModelError, first_line
from pagecli.model.source import BESIDE_GGUF, ModelSource
from pagecli.model.tokenizer.tokenizer import (
    Tokenizer,
    TokenizerParts,
    TransformersTokenizer,
    panics_as_errors,
    parts_of,
)

FORMAT = 1  # of the cached files and of the key
# Those whose presence or version changes how transformers reads tokenizers.
_PACKAGES = ("transformers", "tokenizers", "huggingface_hub", "gguf", "sentencepiece", "protobuf", "tiktoken", "mistral-common")
_ABOUT_MESSAGES = ("TRANSFORMERS_VERBOSITY", "TRANSFORMERS_NO_ADVISORY_WARNINGS")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".npz")
_TEXTS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".spm")
_MAX_FILE_BYTES = 64 << 20
_MAX_BYTES, _MAX_FILES = 256 << 20, 4096
_GGUF_PREFIXES = (4 << 20, 32 << 20)  # bytes; most headers are within the first, none that we know of beyond the second
MAX_FILES = 32
_STALE_SECONDS = 3600.0  # an unfinished file this old has no writer any more
_SUFFIX, _UNFINISHED = ".json", ".tmp"


class _Unsure(Exception):
    """An input of the tokenizer cannot be part of the key."""


@dataclass(frozen=True, slots=True)
class TokenizerKey:
    """The name under which the copy of a tokenizer is kept."""

    name: str  # 64 hexadecimal digits
    prefix_bytes: int | None = None  # of a .gguf file: the key stands for it if its header is no longer

    def stands_for(self, path: Path) -> bool:
        """Whether all is in the key that transformers reads. Raises ModelError for a damaged .gguf file."""
        if self.prefix_bytes is None:
            return not _leads_elsewhere(path)
        from pagecli.model.readers.gguf_header import read_gguf_header

        return read_gguf_header(path).data_start <= self.prefix_bytes and not _leads_elsewhere(path.parent)


def load_tokenizer(source: ModelSource) -> Tokenizer:
    """The tokenizer beside the weights. Raises ModelError in one line when there is none or it cannot be read."""
    if source.tokenizer_path is None:
        from pagecli.model.tokenizer.byte_tokenizer import ByteTokenizer

        return ByteTokenizer(source.config.vocab_size, source.config.eos_token_ids)
    return TransformersTokenizer(load_parts(source.tokenizer_path), source.config.eos_token_ids)


def load_parts(path: Path) -> TokenizerParts:
    """The tokenizer of a model directory or .gguf file. Raises ModelError in one line where there is none to read."""
    folder = cache_folder()
    if folder is None:
        return parts_of(load_with_transformers(path))
    keys = []
    for key in tokenizer_keys(path):
        keys.append(key)
        found = _parts_read(folder, key)
        if found is not None:
            return found
    return _load_and_keep(path, folder, keys)


def load_with_transformers(path: Path) -> Any:
    """The transformers tokenizer itself. Raises ModelError like load_parts."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        with panics_as_errors:
            tokenizer = _from_gguf(path) if path.suffix == ".gguf" and path.is_file() else _from_directory(path)
    except Exception as error:  # a broken file can raise any exception in transformers
        raise ModelError(
            f"{path}: no usable tokenizer ({first_line(error)})", "expected tokenizer.json beside the weights"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"{path}: tokenizer {type(tokenizer).__name__} is not supported", "expected tokenizer.json beside the weights"
        )
    return tokenizer


def _from_directory(directory: Path) -> Any:
    """With trust_remote_code=False transformers does not prompt on the terminal whether to run the model's Python code."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _from_gguf(path: Path) -> Any:
    """AutoTokenizer would first read the whole file's config through the gguf package: 7 s where this takes 0.6."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def _parts_read(folder: Path, key: TokenizerKey) -> TokenizerParts | None:
    content = read(folder, key.name)
    if content is None:
        return None
    try:
        with panics_as_errors:
            return TokenizerParts.from_bytes(content)
    except Exception:  # undamaged, but not written by this version
        return None


def _load_and_keep(path: Path, folder: Path, keys: list[TokenizerKey]) -> TokenizerParts:
    """The copy where there is one to keep, so that this start already works as the next ones will."""
    tokenizer = load_with_transformers(path)
    parts = parts_of(tokenizer)
    if not keys or not make_folder(folder):
        return parts
    from pagecli.model.tokenizer.copy import faithful_copy

    made = faithful_copy(tokenizer, parts)
    if made is None:
        return parts
    copy, content = made
    if keys == list(tokenizer_keys(path)):  # nothing was written there meanwhile
        key = next((key for key in keys if key.stands_for(path)), None)
        if key is not None:
            write(folder, key.name, content)
    return copy


def tokenizer_keys(path: Path) -> Iterator[TokenizerKey]:
    """The key of a model directory; those of a .gguf file, one after the other. None at all where nothing should be kept.

    A key is taken of a file's first bytes, for its header's length is costly to find: it may stand for more than the header.
    """
    try:
        digest = hashlib.sha256()
        _add_surroundings(digest)
        is_gguf = path.suffix == ".gguf" and path.is_file()
        _add(digest, b"gguf" if is_gguf else b"directory", os.fsencode(path))
        if is_gguf:
            yield from _gguf_keys(digest, path)
        else:
            _add_folder(digest, path)
            yield TokenizerKey(digest.hexdigest())
    except (OSError, _Unsure):
        return


def _gguf_keys(digest: Any, path: Path) -> Iterator[TokenizerKey]:
    _add_folder(digest, path.parent, BESIDE_GGUF)
    with open(path, "rb") as file:
        _add(digest, str(os.fstat(file.fileno()).st_size).encode())  # a file cut short is another
        for num_bytes in _GGUF_PREFIXES:
            digest.update(file.read(num_bytes - file.tell()))
            yield TokenizerKey(digest.hexdigest(), num_bytes)


def _add(digest: Any, *values: bytes) -> None:
    for value in values:
        digest.update(len(value).to_bytes(8, "little"))
        digest.update(value)


def _add_surroundings(digest: Any) -> None:
    _add(digest, str(FORMAT).encode(), __version__.encode(), repr(sys.version_info[:3]).encode())
    for package in _PACKAGES:
        version, origin = _installed(package)
        if not version:
            _add(digest, package.encode(), b"")
            continue
        if "dir_info" in origin or "dev" in version:  # an editable install: its version says nothing about its code
            raise _Unsure
        _add(digest, package.encode(), version.encode(), origin.encode())
    for name, value in sorted(os.environ.items()):
        if name.startswith("TRANSFORMERS_") and name not in _ABOUT_MESSAGES:
            _add(digest, os.fsencode(name), os.fsencode(value))


@functools.cache
def _installed(package: str) -> tuple[str, str]:
    """(version, direct_url.json or an empty text), both empty where it is not installed: looked for once, some ms each."""
    from importlib import metadata

    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return "", ""
    return _version(found), found.read_text("direct_url.json") or ""


def _version(package: Any) -> str:
    """Of an importlib.metadata.Distribution, which itself parses the whole file as a mail: a millisecond each."""
    stated = re.search(r"^Version: *(.+)$", package.read_text("METADATA") or "", re.MULTILINE)
    return stated[1].strip() if stated else str(package.version)


def _add_folder(digest: Any, folder: Path, wanted: re.Pattern[str] | None = None) -> None:
    """Names of all in it that is wanted, and contents of the files in it and its folders that are not weights."""
    num_bytes = 0
    for num_files, entry in enumerate(sorted(_entries(folder, wanted), key=lambda entry: entry.path)):
        _add(digest, os.fsencode(os.path.relpath(entry.path, folder)))
        if not entry.is_file() or entry.name.lower().endswith(_WEIGHTS):
            continue
        size = entry.stat().st_size
        if size > _MAX_FILE_BYTES and not entry.name.lower().endswith(_TEXTS):
            _add(digest, b"large", str(size).encode())  # no tokenizer's
            continue
        num_bytes += size
        if size > _MAX_FILE_BYTES or num_bytes > _MAX_BYTES or num_files > _MAX_FILES:
            raise _Unsure
        _add(digest, Path(entry.path).read_bytes())


def _entries(folder: Path, wanted: re.Pattern[str] | None, depth: int = 0) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if wanted is None or depth > 0 or wanted.search(entry.name):
                yield entry
                if depth == 0 and entry.is_dir() and not entry.name.startswith("."):
                    yield from _entries(Path(entry.path), wanted, 1)


def _leads_elsewhere(folder: Path) -> bool:
    """Whether a config names files that are not in the key, for transformers to read."""
    for name in ("tokenizer_config.json", "config.json"):
        try:
            config = parsed((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return True
        if not isinstance(config, dict) or config.get("gguf_file") or config.get("init_inputs"):
            return True
        named = [value for key, value in config.items() if key.endswith(("_file", "_files")) and value]
        if any(not isinstance(value, str) or os.path.exists(value) for value in named):
            return True
    return False


def cache_folder(kind: str = "tokenizers") -> Path | None:
    """The folder of that kind, under $PAGECLI_CACHE_DIR, $XDG_CACHE_HOME/pagecli or ~/.cache/pagecli. None: nothing is kept."""
    named = os.environ.get("PAGECLI_CACHE_DIR")
    if named is not None and not named.strip():
        return None
    try:
        if named is not None:
            return Path(named).expanduser() / kind
        caches = os.environ.get("XDG_CACHE_HOME", "")
        home = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
        return home / "pagecli" / kind
    except RuntimeError:  # no home directory
        return None


def make_folder(folder: Path) -> bool:
    """Make it, for this user alone, if it is missing. Whether files can be written there."""
    try:
        for each in (folder.parent.parent, folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def read(folder: Path, name: str) -> bytes | None:
    """What was written under that name, marked as used just now; None if there is nothing, or it is damaged or another's."""
    try:
        # Not through a link; and not waiting for the writer of a pipe.
        descriptor = os.open(folder / (name + _SUFFIX), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not _is_own(os.fstat(descriptor)):
            return None
        with open(descriptor, "rb", closefd=False) as file:
            content = _checked(file.read(), name)
        if content is not None:
            with contextlib.suppress(OSError):
                os.utime(descriptor)
        return content
    except OSError:
        return None
    finally:
        os.close(descriptor)


def write(folder: Path, name: str, content: bytes) -> None:
    """Keep `content` under that name, for the next start; the copies used longest ago go when there are more than MAX_FILES."""
    import tempfile

    if len(content) > _MAX_BYTES:
        return
    head = {"pagecli_tokenizer": FORMAT, "name": name, "sha256": hashlib.sha256(content).hexdigest()}
    try:
        descriptor, unfinished = tempfile.mkstemp(prefix=".", suffix=_UNFINISHED, dir=folder)  # readable by this user alone
        try:
            with open(descriptor, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n")
                file.write(content)
            os.replace(unfinished, folder / (name + _SUFFIX))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise
        _tidy(folder)
    except OSError:
        return


def _is_own(status: os.stat_result) -> bool:
    """Whether it is a regular file of this user that no other user can write."""
    mode = status.st_mode
    return stat.S_ISREG(mode) and status.st_uid == os.geteuid() and not mode & 0o022 and status.st_size <= 2 * _MAX_BYTES


def _checked(file: bytes, name: str) -> bytes | None:
    head, _, content = file.partition(b"\n")
    try:
        said = json.loads(head)
    except ValueError:
        return None
    expected = {"pagecli_tokenizer": FORMAT, "name": name, "sha256": hashlib.sha256(content).hexdigest()}
    return content if said == expected else None


def _tidy(folder: Path) -> None:
    kept = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process removed it first
            changed = path.lstat().st_mtime
            if path.name.endswith(_SUFFIX):
                kept.append((changed, path))
            elif path.name.endswith(_UNFINISHED) and changed < time.time() - _STALE_SECONDS:
                path.unlink()
    for _, path in sorted(kept, reverse=True)[MAX_FILES:]:
        with contextlib.suppress(OSError):
            path.unlink()
