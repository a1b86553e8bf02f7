"""A program's weights on a GPU, unpacked: matrices in the model's type or, of linear layers, in 8-bit floats; norms and biases
that a kernel adds in float32."""

from collections.abc import Callable, Iterator

import torch

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.dummy_weights import CudaDummySource
from pagecli.devices.cuda.model.linear import (
    CudaExactLinear,
    CudaExperts,
    CudaLinear,
    float8_linear,
    float8_rows,
)
from pagecli.devices.cuda.model.upload import Uploader
from pagecli.devices.cuda.streams import Gpu
from pagecli.devices.limits import is_float8
from pagecli.devices.reference.tensors import as_tensor
from pagecli.model.program import Embedding, ExpertLinear, Head, Linear, Operation, Program, Weight, weights_of
from pagecli.model.weights.reader import WeightReader, WeightSource, expert_name, rows_of_parts


class CudaWeightReader(WeightReader):
    """Moves weights to a GPU as they are read."""

    def __init__(
        self,
        source: WeightSource,
        dtype: torch.dtype,
        gpu: Gpu,
        on_read: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(source, on_read)
        self.dtype, self.place, self._gpu = dtype, gpu.place, gpu
        self._uploader = Uploader(gpu)

    def matrix(self, weight: Weight) -> torch.Tensor:
        """In the model's type."""
        tensor = self._tensor(weight)
        if isinstance(self.source, CudaDummySource):
            return tensor.to(self.dtype, copy=True).contiguous()
        moved = self._uploader.upload(tensor, self.dtype)
        self.source.release()
        return moved

    def vector(self, weight: Weight) -> torch.Tensor:
        """In float32."""
        return self._tensor(weight).to(torch.float32, copy=True).to(self.place)

    def experts_of(self, operation: ExpertLinear, float8: bool = False) -> CudaExperts:
        """Weights in the model's type or 8-bit floats, biases in float32."""
        weight, bias = operation.weight, operation.bias
        biases = None if bias is None else self._stacked(bias, torch.float32)
        if not float8 or not is_float8(weight):
            return CudaExperts(self._stacked(weight, self.dtype), biases)
        narrow = self._gpu.empty(weight.experts, weight.num_rows, weight.columns, dtype=torch.float8_e4m3fn)
        scales = self._gpu.empty(weight.experts, weight.num_rows, dtype=torch.float32)
        for expert, matrix in enumerate(self._each_expert(weight, self.dtype)):
            rounded, of_rows = float8_rows(matrix)
            kernels.raw(narrow[expert]).copy_(kernels.raw(kernels.in_product_order(rounded)))
            scales[expert].copy_(of_rows[:, 0])
        return CudaExperts(narrow, biases, scales)

    def _stacked(self, weight: Weight, dtype: torch.dtype) -> torch.Tensor:
        """[experts, rows, columns], or [experts, rows] of vectors."""
        sizes = (weight.num_rows, weight.columns) if weight.columns else (weight.num_rows,)
        out = self._gpu.empty(weight.experts, *sizes, dtype=dtype)
        for place, matrix in zip(out, self._each_expert(weight, dtype), strict=True):
            place.copy_(matrix)
        return out

    def _each_expert(self, weight: Weight, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """Of one expert after the other the matrix or vector, on the GPU."""
        if isinstance(self.source, CudaDummySource):
            yield from (self._dummy(weight, expert).to(dtype).to(self.place) for expert in range(weight.experts))
            return
        for array in self.experts(weight):
            yield self._uploader.upload(as_tensor(array), dtype)
        self.source.release()

    def _tensor(self, weight: Weight) -> torch.Tensor:
        """On the host, but for dummy weights, which are made on the GPU."""
        if not isinstance(self.source, CudaDummySource):
            return as_tensor(self.read(weight))
        return self._dummy(weight)

    def _dummy(self, weight: Weight, expert: int | None = None) -> torch.Tensor:
        assert isinstance(self.source, CudaDummySource)
        read, whole = self.source.read_tensor, weight.whole
        names = whole.names if expert is None else [expert_name(name, expert) for name in whole.names]
        joined = torch.cat([read(name, shape) for name, shape in zip(names, whole.shapes, strict=True)])
        if weight.whole_rows:
            joined = torch.cat([joined[first:last] for first, last in rows_of_parts(weight)])
        first = weight.first_column
        return joined[:, first : first + weight.columns] if weight.whole_columns else joined


class CudaWeights:
    """What the operations of a program read; `float8`: linear layers in 8 bits."""

    def __init__(self, program: Program, reader: CudaWeightReader, float8: bool = False) -> None:
        self.dtype, self.place = reader.dtype, reader.place
        self._reader, self._float8 = reader, float8
        self._tensors: dict[Weight, torch.Tensor] = {}
        self._linears: dict[Weight, CudaLinear] = {}
        self._experts: dict[Weight, CudaExperts] = {}
        for operation in program.operations():
            self._load(operation)
        layers: list[CudaLinear | CudaExperts] = [*self._linears.values(), *self._experts.values()]
        self.num_bytes = sum(tensor.nbytes for tensor in self._tensors.values()) + sum(layer.num_bytes for layer in layers)

    def tensor(self, weight: Weight) -> torch.Tensor:
        return self._tensors[weight]

    def vector(self, weight: Weight | None) -> torch.Tensor | None:
        return None if weight is None else self._tensors[weight]

    def linear(self, operation: Linear) -> CudaLinear:
        return self._linears[operation.weight]

    def experts(self, operation: ExpertLinear) -> CudaExperts:
        return self._experts[operation.weight]

    def _load(self, operation: Operation) -> None:
        match operation:
            case Embedding() | Head():
                if operation.weight not in self._tensors:
                    self._tensors[operation.weight] = self._reader.matrix(operation.weight)
                if isinstance(operation, Head) and operation.bias is not None:
                    self._tensors[operation.bias] = self._reader.vector(operation.bias)
            case Linear():
                self._linears[operation.weight] = self._linear(operation)
            case ExpertLinear():
                self._experts[operation.weight] = self._reader.experts_of(operation, self._float8)
            case _:
                for weight in weights_of(operation):
                    if weight not in self._tensors:
                        self._tensors[weight] = self._reader.vector(weight)

    def _linear(self, operation: Linear) -> CudaLinear:
        """With its bias in the model's type, as torch wants it; where an activation follows, its kernel adds the bias."""
        if operation.weight.exact:
            exact = self._reader.vector(operation.weight).contiguous()
            return CudaExactLinear(exact, None if operation.bias is None else self._reader.vector(operation.bias))
        matrix, bias = self._reader.matrix(operation.weight), None
        if operation.bias is not None and operation.activation == "none":
            bias = self._reader.vector(operation.bias).to(self.dtype)
        elif operation.bias is not None:
            self._tensors[operation.bias] = self._reader.vector(operation.bias)
        narrow = self._float8 and is_float8(operation.weight)
        return float8_linear(matrix, bias) if narrow else CudaLinear(matrix, bias)
