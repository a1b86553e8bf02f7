"""A model's tokenizer through transformers, which takes seconds to import; or from the copy kept of it at an earlier start."""

from pathlib import Path
from typing import Any

from pagecli.errors import ModelError
from pagecli.model.tokenizer import cache
from pagecli.model.tokenizer.cache import TokenizerKey, tokenizer_keys
from pagecli.model.tokenizer.parts import TokenizerParts, panics_as_errors, parts_of


def load_parts(path: Path) -> TokenizerParts:
    """Of a model directory or .gguf file. Raises ModelError in one line when there is no tokenizer or it cannot be read."""
    folder = cache.cache_folder()
    if folder is None:
        return parts_of(load_with_transformers(path))
    keys = []
    for key in tokenizer_keys(path):
        keys.append(key)
        found = _read(folder, key)
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
            f"{path}: no usable tokenizer ({one_line(error)})", "expected tokenizer.json beside the weights"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"{path}: tokenizer {type(tokenizer).__name__} is not supported", "expected tokenizer.json beside the weights"
        )
    return tokenizer


def one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _from_directory(directory: Path) -> Any:
    """With trust_remote_code=False transformers does not prompt on the terminal whether to run the model's Python code."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _from_gguf(path: Path) -> Any:
    """AutoTokenizer would first read the whole file's config through the gguf package: 7 s where this takes 0.6."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def _read(folder: Path, key: TokenizerKey) -> TokenizerParts | None:
    content = cache.read(folder, key.name)
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
    if not keys or not cache.make_folder(folder):
        return parts
    from pagecli.model.tokenizer.copy import faithful_copy

    made = faithful_copy(tokenizer, parts)
    if made is None:
        return parts
    copy, content = made
    if keys == list(tokenizer_keys(path)):  # nothing was written there meanwhile
        key = next((key for key in keys if key.stands_for(path)), None)
        if key is not None:
            cache.write(folder, key.name, content)
    return copy
