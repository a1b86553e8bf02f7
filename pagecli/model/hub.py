"""Models of the Hugging Face hub, through huggingface_hub and its cache."""

import re
from collections.abc import Iterator
from pathlib import Path

from pagecli.errors import ModelError, first_line

_TEXT_FILES = ["*.json", "*.txt", "*.jinja", "tokenizer.model"]
_SAFETENSORS = ["model.safetensors", "model-*.safetensors"]
_PICKLES = ["pytorch_model.bin", "pytorch_model-*.bin"]


def is_hub_id(name: str) -> bool:
    """Whether `name` is spelled like a hub repository: org/name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def download(hub_id: str, with_weights: bool) -> Path:
    """Directory of the repository's files, from the cache where they are current; safetensors preferred to pickles.

    Raises ModelError when the repository is not in the cache and cannot be had.
    """
    directory = _snapshot(hub_id, _TEXT_FILES)
    if with_weights:
        _snapshot(hub_id, _SAFETENSORS)
        if not any(directory.glob("model*.safetensors")):
            _snapshot(hub_id, _PICKLES)
    return directory


def cached_files(hub_id: str) -> list[Path]:
    """The repository's files in the cache, every revision; none are downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "blobs"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def cached_ids() -> list[str]:
    """The repositories of models in the cache, sorted; nothing is asked of the hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return sorted(found.name.removeprefix("models--").replace("--", "/") for found in Path(HF_HUB_CACHE).glob("models--*--*"))


def cached_snapshot(hub_id: str) -> Path | None:
    """Directory of a revision in the cache that has weights; nothing is asked of the hub."""
    return next(_snapshots_with_weights(hub_id), None)


def safetensors_headers(hub_id: str) -> list[list[tuple[str, str, tuple[int, ...]]]] | None:
    """(name, type, shape) of each tensor of each safetensors file, by range requests of the files' first bytes; None where the
    repository has no such files, or the hub does not answer."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        files = get_safetensors_metadata(hub_id).files_metadata.values()
    except Exception:  # network libraries raise many kinds, and what is asked for is not needed
        return None
    finally:
        if shown:
            enable_progress_bars()
    return [[(name, found.dtype, tuple(found.shape)) for name, found in file.tensors.items()] for file in files]


def has_weights(hub_id: str) -> bool:
    """Whether the cache has a revision of the repository with its config and weights; nothing is downloaded."""
    return cached_snapshot(hub_id) is not None


def _snapshots_with_weights(hub_id: str) -> Iterator[Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    revisions = Path(HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    patterns = (*_SAFETENSORS, *_PICKLES)
    for found in revisions.iterdir() if revisions.is_dir() else ():
        has_files = any(path.exists() for pattern in patterns for path in found.glob(pattern))
        if has_files and (found / "config.json").exists():
            yield found


def _snapshot(hub_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ModelError(
            f"{hub_id}: the hub asks for permission", "accept its licence on the hub, then set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{hub_id}: no such repository on the hub", "check the name; a private one needs HF_TOKEN") from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{hub_id}: not in the local cache, and the hub cannot be reached",
            "connect, or give a directory or .gguf file; --load-format dummy needs no weights",
        ) from error
    except Exception as error:  # network libraries raise many kinds; each must become one line
        raise ModelError(
            f"{hub_id}: download failed ({first_line(error)})", "try again, or give a directory or .gguf file"
        ) from error
