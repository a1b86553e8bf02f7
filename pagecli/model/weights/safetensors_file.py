"""Weights in safetensors files, memory-mapped: a tensor read is a view of the file until it is packed."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pagecli.errors import ModelError
from pagecli.model.weights import check_tensor, missing_tensor, stored_name


class SafetensorsSource:
    """`path`: one .safetensors file, or the index of a sharded checkpoint (*.safetensors.index.json)."""

    def __init__(self, path: Path) -> None:
        self.where = path
        self._open: dict[Path, Any] = {}
        self._file_of = _files_by_index(path) if path.suffix == ".json" else dict.fromkeys(self._handle(path).keys(), path)

    def __contains__(self, name: str) -> bool:
        return stored_name(self._file_of, name) is not None

    def names(self) -> list[str]:
        return list(self._file_of)

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        stored = stored_name(self._file_of, name)
        if stored is None:
            raise missing_tensor(self.where, name)
        file = self._file_of[stored]
        try:
            tensor = self._handle(file).get_tensor(stored)
        except SafetensorError as error:
            raise missing_tensor(file, stored) from error
        return check_tensor(file, stored, tensor, shape)

    def _handle(self, file: Path) -> Any:
        """The opened file; the safetensors library checks the header's length and every tensor's range against the file."""
        if file not in self._open:
            try:
                self._open[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file}: not a complete safetensors file ({_reason(error)})", "download it again") from error
        return self._open[file]


def read_index(path: Path) -> dict[str, str]:
    """The weight_map of a sharded checkpoint's index: tensor name -> file name, next to the index."""
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
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
    return str(error).splitlines()[0].removeprefix("Error while deserializing header: ") if str(error) else type(error).__name__
