"""A checkpoint some of whose matrices are quantized, each format's in a file of its own here."""

from pagecli.core.arrays import Array
from pagecli.core.model_config import QuantizationConfig
from pagecli.model.weights.packed.bitsandbytes import BITSANDBYTES
from pagecli.model.weights.packed.integers import GPTQ, PACKED
from pagecli.model.weights.packed.layer import Format, Layer
from pagecli.model.weights.packed.mxfp4 import MXFP4
from pagecli.model.weights.packed.plain import PLAIN
from pagecli.model.weights.quantized import QuantizedSource, QuantizedTensor
from pagecli.model.weights.reader import check_shape, check_tensor, missing_tensor
from pagecli.model.weights.safetensors_file import SafetensorsSource

_FORMATS: dict[str, Format] = {
    "gptq": GPTQ,
    "awq": GPTQ,
    "pack-quantized": PACKED,
    "plain": PLAIN,
    "bitsandbytes": BITSANDBYTES,
    "mxfp4": MXFP4,
}


class PackedSource(QuantizedSource):
    """A safetensors checkpoint and its quantization_config."""

    def __init__(self, source: SafetensorsSource, config: QuantizationConfig) -> None:
        self.where = source.where
        self._source, self._config, self._format = source, config, _FORMATS[config.layout]

    def folded(self, name: str) -> tuple[str, ...]:
        return () if self._layer(name) is None else ("transposed",)

    def release(self) -> None:
        self._source.release()

    def stored_name(self, name: str) -> str | None:
        layer = self._layer(name)
        if layer is None:
            return self._source.stored_name(name)
        return layer.name + next(end for end, stored in self._format.numbers if layer.has(stored))

    def names(self) -> list[str]:
        found = [name for name in self._source.names() if not name.endswith(self._format.beside)]
        for end, stored in self._format.numbers:
            found = [name.removesuffix(stored) + end if name.endswith(stored) else name for name in found]
        return found

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        layer = self._layer(name)
        if layer is None:
            return self._source.read(name, shape)
        return check_tensor(self.where, layer.name, self._format.values(layer), shape)

    def read_expert(self, name: str, expert: int, shape: tuple[int, ...]) -> Array:
        layer = self._layer(name, expert)
        if layer is None:
            stored = self._stored(name)
            whole = self._source.stored(stored)
            check_shape(self.where, stored, whole.shape, shape)
            return check_tensor(self.where, stored, whole[expert], shape[1:])
        self._check_experts(layer, shape)
        return check_tensor(self.where, layer.name, self._format.values(layer), shape[1:])

    def read_quantized(self, name: str, shape: tuple[int, ...], expert: int | None = None) -> QuantizedTensor | None:
        layer = self._layer(name, expert)
        if layer is None:
            return None
        if expert is not None:
            self._check_experts(layer, shape)
        tensor = self._format.quantized(layer)
        return None if tensor is None or tensor.q.shape != shape[-2:] else tensor

    def _stored(self, name: str) -> str:
        stored = self._source.stored_name(name)
        if stored is None:
            raise missing_tensor(self.where, name)
        return stored

    def _check_experts(self, layer: Layer, shape: tuple[int, ...]) -> None:
        """Raises ModelError unless the tensor holds as many experts' parts as `shape`."""
        numbers = next(stored for _, stored in self._format.numbers if layer.has(stored))
        found = self._source.raw(layer.name + numbers).shape
        check_shape(self.where, layer.name, (*found[:1], *shape[1:]), shape)

    def _layer(self, name: str, expert: int | None = None) -> Layer | None:
        """The layer whose quantized matrix `name` is."""
        for end, stored_end in self._format.numbers:
            if not name.endswith(end):
                continue
            stored = self._source.stored_name(name.removesuffix(end) + stored_end)
            if stored is None or not self._source.has(stored):
                continue
            if self._source.is_quantized(stored) or self._source.has(f"{stored}.absmax"):
                return Layer(self._source, stored.removesuffix(stored_end), self._config, expert)
        return None
