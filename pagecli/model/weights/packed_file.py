"""Linear layers of 4 bits in safetensors files, packed as GPTQ, AWQ and compressed-tensors (pack-quantized) pack them.

Of a layer X with N outputs and K inputs, eight numbers in each int32, the first in the lowest bits:

    gptq                X.qweight[K / 8, N], qzeros[groups, N / 8], scales[groups, N], g_idx[K]: the group of each k
    awq                 X.qweight[K, N / 8], qzeros[groups, N / 8], scales[groups, N]; columns in the order 0 2 4 6 1 3 5 7
    compressed-tensors  X.weight_packed[N, K / 8], weight_zero_point[N / 8, groups] unless symmetric, weight_scale[N, groups]

weight = scale * (q - zero); zero as stored, plus one in GPTQ's first format; 8 where there is none.
"""

import numpy as np

from pagecli.core.arrays import Array, to_float32
from pagecli.errors import ModelError
from pagecli.model.readers.quantization_config import Quantization
from pagecli.model.weights.quantized import QuantizedSource, QuantizedTensor
from pagecli.model.weights.safetensors_file import SafetensorsSource
from pagecli.model.weights.source import check_tensor

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of each four bits
_PACKED = (".qweight", ".weight_packed")
_BESIDE = (".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx")
_MOST = 128  # columns of a group that kernels take


def _numbers(packed: Array, order: tuple[int, ...] = tuple(range(8))) -> Array:
    """int32[R, C] -> uint8[R, 8 C]."""
    shifts = np.empty(8, np.uint32)
    shifts[list(order)] = np.arange(0, 32, 4, dtype=np.uint32)
    return ((packed.view(np.uint32)[..., None] >> shifts) & 15).astype(np.uint8).reshape(len(packed), -1)


class PackedSource(QuantizedSource):
    """A checkpoint some of whose matrices are packed."""

    folded: tuple[str, ...] = ()

    def __init__(self, source: SafetensorsSource, quantization: Quantization) -> None:
        self.where = source.where
        self._source, self._quantization = source, quantization

    def release(self) -> None:
        self._source.release()

    def stored_name(self, name: str) -> str | None:
        layer = self._layer(name)
        return self._source.stored_name(name) if layer is None else f"{layer}.weight"

    def names(self) -> list[str]:
        ends = dict.fromkeys(_PACKED, ".weight")
        found = [name for name in self._source.names() if not name.endswith(_BESIDE)]
        return [next((name.removesuffix(end) + new for end, new in ends.items() if name.endswith(end)), name) for name in found]

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        layer = self._layer(name)
        if layer is None:
            return self._source.read(name, shape)
        tensor, order = self._unpacked(layer)
        values = tensor.dequantized()
        if order is not None:
            values = np.ascontiguousarray(values[:, np.argsort(order, kind="stable")])
        return check_tensor(self.where, f"{layer}.weight", values, shape)

    def read_quantized(self, name: str, shape: tuple[int, ...]) -> QuantizedTensor | None:
        layer = self._layer(name)
        if layer is None:
            return None
        tensor, order = self._unpacked(layer)
        if order is not None or tensor.q.shape != shape or tensor.scale.dtype != np.float16:
            return None
        if tensor.group > _MOST and tensor.group % _MOST == 0:
            return tensor.with_groups(_MOST)
        return tensor

    def _layer(self, name: str) -> str | None:
        """The layer whose packed matrix `name` is, by the checkpoint's name."""
        if not name.endswith(".weight") or self._source.stored_name(name) in self._source.names():
            return None
        for end in _PACKED:
            stored = self._source.stored_name(name.removesuffix(".weight") + end)
            if stored is not None:
                return stored.removesuffix(end)
        return None

    def _unpacked(self, layer: str) -> tuple[QuantizedTensor, Array | None]:
        """The matrix [N, K] and, where groups are not runs of k, the order of k in which they are."""
        raw, names, order = self._source.raw, self._source.names(), None
        if self._quantization.method == "compressed-tensors":
            q, scale = _numbers(raw(f"{layer}.weight_packed")), raw(f"{layer}.weight_scale")
            has_zeros = f"{layer}.weight_zero_point" in names
            zero = _numbers(raw(f"{layer}.weight_zero_point").T.copy()).T if has_zeros else np.full(scale.shape, 8, np.uint8)
            if f"{layer}.weight_g_idx" in names:
                order = _order(raw(f"{layer}.weight_g_idx"))
        else:
            columns = _AWQ_ORDER if self._quantization.method == "awq" else tuple(range(8))
            scale, zero = raw(f"{layer}.scales").T, _numbers(raw(f"{layer}.qzeros"), columns).T
            packed = raw(f"{layer}.qweight")
            q = _numbers(packed, columns).T if self._quantization.method == "awq" else _numbers(packed.T.copy())
            zero = zero + np.uint8(self._quantization.zero_added)
            if f"{layer}.g_idx" in names:
                order = _order(raw(f"{layer}.g_idx"))
        groups = 1 if self._quantization.group_size == -1 else -(-q.shape[1] // self._quantization.group_size)
        if scale.shape != (len(q), groups) or zero.shape != scale.shape or q.shape[1] % groups:
            raise ModelError(f"{self.where}: {layer} is not packed as quantization_config says", "is the config its own?")
        q = q if order is None else q[:, order]
        parts = [np.ascontiguousarray(part) for part in (q, _halves(scale), zero.astype(np.float16))]
        return QuantizedTensor(parts[0], parts[1], parts[2], "zero"), order


def _order(groups: Array) -> Array | None:
    """Of the groups of each k: the k in the order of their groups; None where that is theirs."""
    return None if np.all(groups[1:] >= groups[:-1]) else np.argsort(groups, kind="stable")


def _halves(scale: Array) -> Array:
    """float16 where that holds the scales exactly (bfloat16 has fewer bits, and more range), else float32."""
    wide = to_float32(scale)
    halves = wide.astype(np.float16)
    return halves if np.array_equal(halves.astype(np.float32), wide) else wide
