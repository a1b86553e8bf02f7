"""What the models on a GPU share: weights as torch holds them, GEMMs by torch, a step's tensors moved over once.

Activations are of the model's type. A layer's output is not added to the hidden states at once: the norm after it adds it while
it reads them (`added` of pagecli.devices.cuda.kernels), which saves a pass over both.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pagecli.core.arrays import Array
from pagecli.core.model_config import ModelConfig
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.attention import AttentionPlan, AttentionShape, plan_attention
from pagecli.devices.cuda.dummy_weights import CudaDummySource
from pagecli.devices.cuda.linear import CudaLinear, float8_linear
from pagecli.devices.reference.tensors import as_tensor
from pagecli.devices.step_inputs import KVCache, StepInputs
from pagecli.model.weights import WeightSource
from pagecli.model.weights.reader import WeightReader


@dataclass(frozen=True, slots=True)
class CudaNorm:
    """LayerNorm where there is a bias, RMSNorm otherwise; weight and bias float32."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float

    def __call__(self, x: torch.Tensor, added: torch.Tensor | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """x += added, where given; the normed x, in `out` if given (which may be x)."""
        out = torch.empty_like(x) if out is None else out
        if self.bias is None:
            kernels.rms_norm(out, x, self.weight, self.eps, added)
        else:
            kernels.layer_norm(out, x, self.weight, self.bias, self.eps, added)
        return out


class CudaWeightLoader(WeightReader):
    """Moves weights to a GPU as they are read, unpacked; `float8`: those of linear layers in 8 bits."""

    def __init__(self, source: WeightSource, dtype: torch.dtype, device: torch.device, float8: bool = False) -> None:
        super().__init__(source)
        self.num_bytes = 0  # of everything loaded so far
        self.dtype, self.device, self.float8 = dtype, device, float8

    def tensor(self, names: Sequence[str], num_rows: Sequence[int], num_cols: int) -> torch.Tensor:
        """Weights `names`, [num_rows[i], num_cols] each, as one [sum(num_rows), num_cols]."""
        joined = self._tensor(names, [(rows, num_cols) for rows in num_rows]).to(self.device, self.dtype, copy=True)
        self.source.release()
        self.num_bytes += joined.nbytes
        return joined

    def vector(self, names: Sequence[str], sizes: Sequence[int]) -> torch.Tensor:
        """Vectors `names`, joined, in float32."""
        vector = self._tensor(names, [(size,) for size in sizes]).to(torch.float32, copy=True)
        self.num_bytes += vector.nbytes
        return vector.to(self.device)

    def _tensor(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """On the host, but for dummy weights, which are made on the GPU."""
        if not isinstance(self.source, CudaDummySource):
            return as_tensor(self.joined(names, shapes))
        return torch.cat([self.source.read_tensor(name, shape) for name, shape in zip(names, shapes, strict=True)])

    def cuda_linear(self, names: Sequence[str], num_rows: Sequence[int], num_cols: int, bias: bool) -> CudaLinear:
        """A linear layer from `names`[i].weight and, with `bias`, `names`[i].bias (in the model's type, as torch wants it)."""
        weight = self.tensor([f"{name}.weight" for name in names], num_rows, num_cols)
        own_bias = self.vector([f"{name}.bias" for name in names], num_rows).to(self.dtype) if bias else None
        if not self.float8:
            return CudaLinear(weight, own_bias)
        narrow = float8_linear(weight, own_bias)
        self.num_bytes += narrow.num_bytes - weight.nbytes
        return narrow

    def cuda_norm(self, name: str, size: int, eps: float, bias: bool, affine: bool = True) -> CudaNorm:
        if not affine:
            return CudaNorm(torch.ones(size, device=self.device), torch.zeros(size, device=self.device), eps)
        weight = self.vector([f"{name}.weight"], [size])
        return CudaNorm(weight, self.vector([f"{name}.bias"], [size]) if bias else None, eps)


@dataclass(frozen=True, slots=True)
class CudaStep:
    """A step's inputs on the GPU, and the plan of its attention for each sliding window of the model."""

    inputs: StepInputs[torch.Tensor]
    plans: dict[int, AttentionPlan]


class CudaModel(ABC):
    """What a loaded model on the GPU offers; `compute` is one step, and a CUDA graph may hold it."""

    def __init__(self, config: ModelConfig, loader: CudaWeightLoader) -> None:
        multiprocessors = kernels.extension().current_device()["multiprocessors"]
        heads, kv_heads = config.num_heads, config.num_kv_heads
        self.config, self.device, self.dtype = config, loader.device, loader.dtype
        self.attention_shape = AttentionShape(heads, kv_heads, config.head_dim, loader.dtype, multiprocessors)
        self.windows = tuple(sorted({config.window(layer) for layer in range(config.num_layers)}))
        self.weight_bytes = 0

    @abstractmethod
    def compute(self, step: CudaStep, kv: KVCache[torch.Tensor], out: torch.Tensor) -> None:
        """out[R, vocab] (float32) = the logits of a step whose inputs lie on the GPU: queues work, waits for nothing."""

    @abstractmethod
    def reserve_positions(self, num_positions: int) -> None:
        """Make tables that grow with the context as large as they will ever be needed: graphs hold on to them."""

    def forward(self, inputs: StepInputs[Array], kv: KVCache[torch.Tensor]) -> torch.Tensor:
        """logits[R, vocab]: `compute` for inputs on the CPU."""
        context_lens, query_start = inputs.context_lens, inputs.query_start
        self.reserve_positions(int(context_lens.max()))
        plans = {w: plan_attention(context_lens, query_start, self.attention_shape, self.device, w) for w in self.windows}
        moved = {name: torch.from_numpy(getattr(inputs, name)).to(self.device) for name in StepInputs.__slots__}
        out = torch.empty(inputs.logit_rows.shape[0], self.config.vocab_size, device=self.device)
        self.compute(CudaStep(StepInputs(**moved), plans), kv, out)
        return out
