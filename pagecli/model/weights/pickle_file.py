"""Weights in pytorch_model.bin files, read only by torch's weights-only loader, which runs no code from the file."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch

from pagecli.core.arrays import Array
from pagecli.errors import ModelError
from pagecli.model.weights.reader import check_tensor, missing_tensor, stored_name, unsupported_type
from pagecli.model.weights.safetensors_file import read_index


class PickleSource:
    """`path`: one pytorch_model.bin, or the index of a sharded checkpoint (pytorch_model.bin.index.json)."""

    def __init__(self, path: Path) -> None:
        self.where = path
        files = sorted(set(read_index(path).values())) if path.suffix == ".json" else [path.name]
        self._tensors: dict[str, torch.Tensor] = {}
        for file in files:
            self._tensors |= _load(path.parent / file)

    def folded(self, name: str) -> tuple[str, ...]:
        return ()

    def stored_name(self, name: str) -> str | None:
        return stored_name(self._tensors, name)

    def release(self) -> None:
        pass

    def names(self) -> list[str]:
        return list(self._tensors)

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        stored = self.stored_name(name)
        if stored is None:
            raise missing_tensor(self.where, name)
        return check_tensor(self.where, stored, _as_array(self.where, stored, self._tensors[stored]), shape)


def _load(file: Path) -> dict[str, torch.Tensor]:
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "truncated, or holds more than tensors"
        raise ModelError(
            f"{file}: not a readable PyTorch checkpoint ({reason})", "download it again, or use safetensors"
        ) from error
    if not isinstance(tensors, dict):
        raise ModelError(f"{file}: holds a {type(tensors).__name__}, not a table of tensors")
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}


def _as_array(where: Path, name: str, tensor: torch.Tensor) -> Array:
    if tensor.layout != torch.strided or tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise unsupported_type(where, name, str(tensor.dtype).removeprefix("torch."))
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
