"""A checkpoint with an adapter merged into it as its tensors are read."""

from pathlib import Path

import numpy as np

from pagecli.core.arrays import Array, to_float32
from pagecli.errors import ModelError
from pagecli.model.adapters.peft_adapter import Adapter
from pagecli.model.weights.reader import WeightSource

_WEIGHT = ".weight"


class MergedSource:
    """A WeightSource whose matrices are `base`'s, plus what `adapter` adds to them: summed in float32. Raises ModelError where
    the adapter changes what the base does not have."""

    def __init__(self, base: WeightSource, adapter: Adapter) -> None:
        known = base.names()
        changed = {adapter.module_of(name) for name in known}
        for module in adapter.updates:
            if known and module not in changed and base.stored_name(module + _WEIGHT) is None:
                raise ModelError(f"{adapter.directory}: changes {module}, which {base.where} does not have", "is it its base?")
        self._base, self._adapter = base, adapter

    def folded(self, name: str) -> tuple[str, ...]:
        return self._base.folded(name)

    @property
    def where(self) -> Path | str:
        return self._base.where

    def stored_name(self, name: str) -> str | None:
        return self._base.stored_name(name)

    def names(self) -> list[str]:
        return self._base.names()

    def release(self) -> None:
        self._base.release()

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        tensor = self._base.read(name, shape)
        module = self._adapter.module_of(name)
        if module is None:
            return tensor
        update = self._adapter.updates[module]
        delta = update.b @ update.a
        if self._adapter.transposed and "transposed" not in self.folded(name):
            delta = delta.T
        if delta.shape != tensor.shape:
            raise ModelError(
                f"{self._adapter.directory}: changes {name} of shape {list(delta.shape)}, the model's is {list(tensor.shape)}",
                "is it its base?",
            )
        return to_float32(tensor) + np.float32(update.scale) * delta
