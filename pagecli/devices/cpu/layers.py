"""What the model families share: linear layers, norms, the packing of weights as they are read, and the workspace."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pagecli.core import arrays
from pagecli.core.arrays import Array
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.lm_head import LMHead
from pagecli.model.weights import WeightSource
from pagecli.model.weights.reader import WeightReader


@dataclass(frozen=True, slots=True)
class Linear:
    """out[M, N] (+)= activation(x[M, K] @ weight[N, K].T + bias[N])"""

    weight: kernels.PackedWeight
    bias: Array | None

    def __call__(self, out: Array, x: Array, activation: str = "none", accumulate: bool = False) -> None:
        kernels.linear(out, x, self.weight, self.bias, activation, accumulate)


@dataclass(frozen=True, slots=True)
class RMSNorm:
    weight: Array  # [size]
    eps: float

    def __call__(self, out: Array, x: Array) -> None:
        kernels.rms_norm(out, x, self.weight, self.eps)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    weight: Array  # [size]
    bias: Array  # [size]
    eps: float

    def __call__(self, out: Array, x: Array) -> None:
        kernels.layer_norm(out, x, self.weight, self.bias, self.eps)


class WeightLoader(WeightReader):
    """Packs weights as they are read, as `dtype`: peak memory is what is packed plus the tensor at hand.

    Several names make one weight, their rows one after another (Q, K and V; gate and up).
    """

    def __init__(self, source: WeightSource, dtype: str) -> None:
        super().__init__(source)
        self.dtype = dtype

    def matrix(self, names: Sequence[str], num_rows: Sequence[int], num_cols: int) -> kernels.PackedWeight:
        """Weights `names`, [num_rows[i], num_cols] each, packed as one [sum(num_rows), num_cols]."""
        packed = kernels.pack_weight(self.joined(names, [(rows, num_cols) for rows in num_rows]), self.dtype)
        self.source.release()
        self.num_bytes += packed.nbytes
        return packed

    def vector(self, names: Sequence[str], sizes: Sequence[int]) -> Array:
        """Vectors `names`, joined, in float32: norms and biases are small and always wanted exactly."""
        vector = np.array(arrays.to_float32(self.joined(names, [(size,) for size in sizes])))
        self.num_bytes += vector.nbytes
        return vector

    def linear(self, names: Sequence[str], num_rows: Sequence[int], num_cols: int, bias: bool) -> Linear:
        """A linear layer from `names`[i].weight and, with `bias`, `names`[i].bias."""
        weight = self.matrix([f"{name}.weight" for name in names], num_rows, num_cols)
        return Linear(weight, self.vector([f"{name}.bias" for name in names], num_rows) if bias else None)

    def lm_head(self, weight: kernels.PackedWeight) -> LMHead:
        """The LM head of a weight that is loaded, such as the embedding, and its screen."""
        head = LMHead(weight)
        self.num_bytes += head.screen.nbytes if head.screen is not None else 0
        return head

    def rms_norm(self, name: str, size: int, eps: float) -> RMSNorm:
        return RMSNorm(self.vector([f"{name}.weight"], [size]), eps)

    def layer_norm(self, name: str, size: int, eps: float, affine: bool) -> LayerNorm:
        if not affine:
            return LayerNorm(np.ones(size, np.float32), np.zeros(size, np.float32), eps)
        return LayerNorm(self.vector([f"{name}.weight"], [size]), self.vector([f"{name}.bias"], [size]), eps)


class Workspace:
    """Buffers of a forward pass, float32, allocated once for `max_tokens` rows; logits grow to the most rows ever asked for."""

    def __init__(self, max_tokens: int, widths: dict[str, int]) -> None:
        self.max_tokens = max_tokens
        self._buffers = {name: arrays.empty((max_tokens, width)) for name, width in widths.items()}
        self._grown: dict[str, Array] = {}

    def rows(self, name: str, num_rows: int) -> Array:
        """The first `num_rows` rows of buffer `name`."""
        return self._buffers[name][:num_rows]

    def grown(self, name: str, num_rows: int, width: int) -> Array:
        """[num_rows, width] of a buffer that is allocated when first needed, and again when more rows are."""
        buffer = self._grown.get(name)
        if buffer is None or buffer.shape[0] < num_rows:
            buffer = self._grown[name] = arrays.empty((num_rows, width))
        return buffer[:num_rows]
