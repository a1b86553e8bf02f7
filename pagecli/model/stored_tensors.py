"""What a checkpoint's safetensors headers say of its tensors: exact types and sizes, and no weight is read or downloaded.

Of a directory from its files, of a model of the hub from the cache, else by range requests of each file's first bytes.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pagecli.core.file_targets import expanded
from pagecli.errors import ModelError
from pagecli.model import hub
from pagecli.model.presets import find_preset
from pagecli.model.program import Program, stacked_name
from pagecli.model.weights.reader import stored_name

Shape = tuple[int, ...]
_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16, "F4": 4}  # all others have 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as its file has it. dtype: safetensors' name, such as BF16."""

    dtype: str
    shape: Shape

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return -(-self.num_elements * _BITS.get(self.dtype, 8) // 8)


@dataclass(frozen=True, slots=True)
class StoredTensors:
    """The tensors of a checkpoint by its own names for them."""

    tensors: dict[str, StoredTensor]
    num_files: int

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Those of its tensors, the one with the most bytes first."""
        sizes = Counter[str]()
        for tensor in self.tensors.values():
            sizes[tensor.dtype] += tensor.num_bytes
        return tuple(dtype for dtype, _ in sizes.most_common())

    @property
    def source(self) -> str:
        return "the file's header" if self.num_files == 1 else f"the headers of {self.num_files} files"

    def difference(self, program: Program) -> str:
        """What the program reads that the checkpoint has not, or has in another size; "": it has all of it."""
        for weight in program.weights():
            num_elements = 0
            for name in weight.names:
                found = self._named([name.format(expert) for expert in range(weight.experts)] if "{}" in name else [name])
                found = found or self._named([stacked_name(name)])
                if not found:
                    return f"no tensor {name}"
                num_elements += sum(tensor.num_elements for tensor in found)
            if num_elements != weight.num_elements:
                return f"{' + '.join(weight.names)}: {num_elements:,} numbers, {weight.num_elements:,} by the config"
        return ""

    def _named(self, names: list[str]) -> list[StoredTensor]:
        """The tensors of these names; none unless all are there."""
        stored = [stored_name(self.tensors, name) for name in names]
        return [self.tensors[name] for name in stored if name is not None] if None not in stored else []


def stored_tensors(model: str) -> StoredTensors | None:
    """The tensors of --model; None where there are no safetensors files, or they are on the hub and it cannot be asked.

    For a named model nothing is asked of the network. Raises ModelError for damaged files on this machine.
    """
    path = expanded(model)
    if path.exists():
        return _of_directory(path) if path.is_dir() else None
    preset = find_preset(model)
    hub_id = model if preset is None else preset.hub_id
    if hub_id is None or not hub.is_hub_id(hub_id):
        return None
    cached = hub.cached_snapshot(hub_id)
    if cached is not None and (found := _of_directory(cached)) is not None:
        return found
    return None if preset is not None else _of_hub(hub_id)


def _of_directory(directory: Path) -> StoredTensors | None:
    from pagecli.model.weights.safetensors_file import SafetensorsSource

    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (directory / name).exists():
            try:
                found = SafetensorsSource(directory / name).headers()
            except ModelError:
                if (directory / name).is_symlink():  # of the hub's cache: a file of the index may not be there
                    return None
                raise
            return StoredTensors({name: StoredTensor(*entry) for name, entry in found[0].items()}, found[1])
    return None


def _of_hub(hub_id: str) -> StoredTensors | None:
    files = hub.safetensors_headers(hub_id)
    if files is None:
        return None
    tensors = {name: StoredTensor(dtype, shape) for file in files for name, dtype, shape in file}
    return StoredTensors(tensors, len(files))
