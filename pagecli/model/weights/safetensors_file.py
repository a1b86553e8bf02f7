"""Weights in safetensors files, memory-mapped: a tensor read is a view of the file until it is packed."""

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pagecli.core.arrays import Array, stored_as
from pagecli.core.json_text import parsed
from pagecli.errors import ModelError, first_line
from pagecli.model.weights.reader import MappedFile, check_tensor, missing_tensor, stored_name

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_OF_LAYERS: dict[str, np.dtype[Any]] = {  # that are quantized
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "F8_E4M3": np.dtype(np.uint8),
    "F8_E8M0": np.dtype(np.uint8),
}


class SafetensorsSource:
    """`path`: one .safetensors file, or the index of a sharded checkpoint (*.safetensors.index.json)."""

    def __init__(self, path: Path) -> None:
        self.where = path
        self._opened: dict[Path, _Shard] = {}
        self._file_of = _files_by_index(path) if path.suffix == ".json" else dict.fromkeys(self._shard(path).names(), path)

    def folded(self, name: str) -> tuple[str, ...]:
        return ()

    def stored_name(self, name: str) -> str | None:
        return stored_name(self._file_of, name)

    def has(self, stored: str) -> bool:
        """Whether there is a tensor of that name in the checkpoint."""
        return stored in self._file_of

    def is_quantized(self, stored: str) -> bool:
        """Whether that tensor, which there is, is of a type that no weight is computed with."""
        return self._shard(self._file_of[stored]).entry(stored)[0] in _OF_LAYERS

    def names(self) -> list[str]:
        return list(self._file_of)

    def headers(self) -> tuple[dict[str, tuple[str, tuple[int, ...]]], int]:
        """Type (safetensors' name of it) and shape of each tensor, and the number of files. Raises ModelError."""
        found = {name: self._shard(file).entry(name) for name, file in self._file_of.items()}
        return found, len(self._opened)

    def release(self) -> None:
        for shard in self._opened.values():
            shard.data.release()

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        stored = self.stored_name(name)
        if stored is None:
            raise missing_tensor(self.where, name)
        return check_tensor(self._file_of[stored], stored, self.stored(stored), shape)

    def stored(self, name: str) -> Array:
        """The tensor of that name in the checkpoint, of whatever shape. Raises ModelError."""
        return self._shard(self._file_of[name]).read(name, _DTYPES)

    def raw(self, stored: str) -> Array:
        """A tensor by the checkpoint's name, in whatever type; of float8 the bytes."""
        if stored not in self._file_of:
            raise missing_tensor(self.where, stored)
        return self._shard(self._file_of[stored]).read(stored)

    def _shard(self, file: Path) -> "_Shard":
        if file not in self._opened:
            self._opened[file] = _Shard(file)
        return self._opened[file]


class _Shard:
    """One file: the safetensors library checks its header against its size, and then views of the mapped data are given out.

    (The library's own views keep every page that was read in memory until the file is closed.)
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy"):
                self.data = MappedFile(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path}: not a complete safetensors file ({_reason(error)})", "download it again") from error
        self._path = path
        self._data_start = 8 + int.from_bytes(self.data.bytes(0, 8), "little")
        self._header = json.loads(self.data.bytes(8, self._data_start))

    def names(self) -> list[str]:
        return [name for name in self._header if name != "__metadata__"]

    def entry(self, name: str) -> tuple[str, tuple[int, ...]]:
        if name not in self._header:
            raise missing_tensor(self._path, name)
        return self._header[name]["dtype"], tuple(self._header[name]["shape"])

    def read(self, name: str, kinds: Container[str] = _DTYPES.keys() | _OF_LAYERS.keys()) -> Array:
        """A view of the tensor. Raises ModelError where it is missing or of another type."""
        kind, shape = self.entry(name)
        if kind not in kinds:
            raise ModelError(f"{self._path}: tensor {name} is stored as {kind}", f"supported: {', '.join(_DTYPES)}")
        start, end = self._header[name]["data_offsets"]
        if start == end:
            return np.empty(shape, np.float32)
        stored = self.data.view(self._data_start + start, self._data_start + end)
        dtype = _OF_LAYERS[kind] if kind in _OF_LAYERS else stored_as(_DTYPES[kind])
        return stored.view(dtype).reshape(shape)


def read_index(path: Path) -> dict[str, str]:
    """The weight_map of a sharded checkpoint's index: tensor name -> file name, next to the index."""
    try:
        weight_map = parsed(path.read_bytes())["weight_map"]
        names = {str(tensor): str(file) for tensor, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not the index of a sharded checkpoint", "download it again") from error
    outside = next((file for file in names.values() if Path(file).name != file), None)
    if outside is not None:
        raise ModelError(f"{path}: names the file {outside!r}, which is not next to it", "download the checkpoint again")
    return names


def _files_by_index(path: Path) -> dict[str, Path]:
    return {tensor: path.parent / file for tensor, file in read_index(path).items()}


def _reason(error: Exception) -> str:
    return first_line(error).removeprefix("Error while deserializing header: ")
