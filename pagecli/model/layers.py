"""What the model families share: linear layers, norms, the packing of weights as they are read, and the workspace."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pagecli import kernels
from pagecli.model.weights import WeightSource


@dataclass(frozen=True, slots=True)
class Linear:
    """out[M, N] (+)= activation(x[M, K] @ weight[N, K].T + bias[N])"""

    weight: kernels.PackedWeight
    bias: torch.Tensor | None

    def __call__(self, out: torch.Tensor, x: torch.Tensor, activation: str = "none", accumulate: bool = False) -> None:
        kernels.linear(out, x, self.weight, self.bias, activation, accumulate)

    def argmax(self, x: torch.Tensor) -> torch.Tensor:
        """[M] int64: the first of the largest of each row's N outputs. For layers without bias."""
        assert self.bias is None
        indices = torch.empty(x.shape[0], dtype=torch.int64)
        kernels.linear_argmax(indices, x, self.weight)
        return indices


@dataclass(frozen=True, slots=True)
class RMSNorm:
    weight: torch.Tensor  # [size]
    eps: float

    def __call__(self, out: torch.Tensor, x: torch.Tensor) -> None:
        kernels.rms_norm(out, x, self.weight, self.eps)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    weight: torch.Tensor  # [size]
    bias: torch.Tensor  # [size]
    eps: float

    def __call__(self, out: torch.Tensor, x: torch.Tensor) -> None:
        kernels.layer_norm(out, x, self.weight, self.bias, self.eps)


class WeightLoader:
    """Packs weights as they are read: peak memory is what is packed plus the tensor at hand.

    Several names make one weight, their rows one after another (Q, K and V; gate and up).
    """

    def __init__(self, source: WeightSource, dtype: torch.dtype) -> None:
        self.source = source
        self.dtype = dtype
        self.num_bytes = 0  # of everything read so far
        self._read: set[str] = set()
        self._join_buffer = torch.empty(0, dtype=torch.uint8)

    def matrix(self, names: Sequence[str], num_rows: Sequence[int], num_cols: int) -> kernels.PackedWeight:
        """Weights `names`, [num_rows[i], num_cols] each, packed as one [sum(num_rows), num_cols]."""
        packed = kernels.pack_weight(self._joined(names, [(rows, num_cols) for rows in num_rows]), self.dtype)
        self.source.release()
        self.num_bytes += packed.nbytes
        return packed

    def vector(self, names: Sequence[str], sizes: Sequence[int]) -> torch.Tensor:
        """Vectors `names`, joined, in float32: norms and biases are small and always wanted exactly."""
        vector = self._joined(names, [(size,) for size in sizes]).to(torch.float32, copy=True)
        self.num_bytes += vector.numel() * vector.element_size()
        return vector

    def linear(self, names: Sequence[str], num_rows: Sequence[int], num_cols: int, bias: bool) -> Linear:
        """A linear layer from `names`[i].weight and, with `bias`, `names`[i].bias."""
        weight = self.matrix([f"{name}.weight" for name in names], num_rows, num_cols)
        return Linear(weight, self.vector([f"{name}.bias" for name in names], num_rows) if bias else None)

    def rms_norm(self, name: str, size: int, eps: float) -> RMSNorm:
        return RMSNorm(self.vector([f"{name}.weight"], [size]), eps)

    def layer_norm(self, name: str, size: int, eps: float, affine: bool) -> LayerNorm:
        if not affine:
            return LayerNorm(torch.ones(size), torch.zeros(size), eps)
        return LayerNorm(self.vector([f"{name}.weight"], [size]), self.vector([f"{name}.bias"], [size]), eps)

    def unread(self) -> list[str]:
        """Tensors of the checkpoint that nobody asked for."""
        return [name for name in self.source.names() if name not in self._read and f"model.{name}" not in self._read]

    def _joined(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> torch.Tensor:
        self._read.update(names)
        tensors = [self.source.read(name, shape) for name, shape in zip(names, shapes, strict=True)]
        return tensors[0] if len(tensors) == 1 else self._concatenated(tensors)

    def _concatenated(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """By numpy, in one thread, into memory that is kept: torch.cat's many small parallel copies take 2 s for SmolLM2
        instead of 0.1 where another program has the cores, and fresh memory for each would double the rest."""
        dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
        num_rows, rest = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1:]
        num_bytes = num_rows * rest.numel() * dtype.itemsize
        if self._join_buffer.numel() < num_bytes:
            self._join_buffer = torch.empty(num_bytes, dtype=torch.uint8)
        joined = self._join_buffer[:num_bytes].view(dtype).view(num_rows, *rest)
        same_size = torch.int32 if dtype.itemsize == 4 else torch.int16  # numpy has no bfloat16
        parts = [tensor.to(dtype).view(same_size).numpy() for tensor in tensors]
        np.concatenate(parts, out=joined.view(same_size).numpy())
        return joined


class Workspace:
    """Buffers of a forward pass, float32, allocated once for `max_tokens` rows; logits grow to the most rows ever asked for."""

    def __init__(self, max_tokens: int, widths: dict[str, int]) -> None:
        self.max_tokens = max_tokens
        self._buffers = {name: torch.empty(max_tokens, width) for name, width in widths.items()}
        self._grown: dict[str, torch.Tensor] = {}

    def rows(self, name: str, num_rows: int) -> torch.Tensor:
        """The first `num_rows` rows of buffer `name`."""
        return self._buffers[name][:num_rows]

    def grown(self, name: str, num_rows: int, width: int) -> torch.Tensor:
        """[num_rows, width] of a buffer that is allocated when first needed, and again when more rows are."""
        buffer = self._grown.get(name)
        if buffer is None or buffer.shape[0] < num_rows:
            buffer = self._grown[name] = torch.empty(num_rows, width)
        return buffer[:num_rows]
