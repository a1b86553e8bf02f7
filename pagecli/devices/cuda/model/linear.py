"""Linear layers on a GPU: weights of the model's type, or 8-bit floats (e4m3) with a scale for each output channel and for each
token, multiplied by torch (cuBLASLt). Such scales need no calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.streams import Gpu
from pagecli.errors import UsageError

E4M3_MAX = 448.0
_CAPABILITY = (8, 9)  # of the first GPUs that multiply 8-bit floats


def logits(out: torch.Tensor, x: torch.Tensor, head: torch.Tensor) -> None:
    """out[R, vocab] (float32) = x[R, hidden] @ head[vocab, hidden].T, never rounded to 16 bits, where logits would be equal."""
    if x.device.type == "cuda" and x.dtype != torch.float32:
        torch.mm(x, head.t(), out_dtype=torch.float32, out=out)
    else:  # the host's products have no other type than their factors'
        torch.mm(x.float(), head.t().float(), out=out)


@dataclass(frozen=True, slots=True)
class CudaLinear:
    """x[M, K] -> x @ weight[N, K].T (+ bias[N])"""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + (self.bias.nbytes if self.bias is not None else 0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class CudaExactLinear(CudaLinear):
    """The same with weight and bias in float32, and so is the result; its bits are the same in any batch."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.empty(x.shape[0], self.weight.shape[0], dtype=torch.float32, device=x.device)
        kernels.exact_linear(out, x, self.weight, self.bias)
        return out


@dataclass(frozen=True, slots=True)
class CudaExperts:
    """What kernels.grouped_linear takes of a layer's experts."""

    weight: torch.Tensor  # [experts, N, K]
    bias: torch.Tensor | None  # [experts, N] float32
    scales: torch.Tensor | None = None  # [experts, N] float32, of a weight in e4m3

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.weight, self.bias, self.scales) if tensor is not None)


@dataclass(frozen=True, slots=True)
class CudaFloat8Linear(CudaLinear):
    """x[M, K] -> x @ (weight[N, K] * scales[1, N].T).T (+ bias[N]); bfloat16, rounded to e4m3 row by row for the product."""

    scales: torch.Tensor  # [1, N] float32; the weight is float8_e4m3fn

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + self.scales.nbytes + (self.bias.nbytes if self.bias is not None else 0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        narrow, row_scales = float8_room(x.shape, x.device)
        kernels.quantize_rows(narrow, row_scales, x)
        return self.of_rows(narrow, row_scales, x.dtype)

    def of_rows(self, x: torch.Tensor, row_scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The same of rows that are rounded already, in `dtype`."""
        return torch._scaled_mm(
            x, self.weight.t(), row_scales, self.scales, bias=self.bias, out_dtype=dtype, use_fast_accum=True
        )


def float8_room(shape: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 8-bit floats, and their scales, to be written."""
    rows = torch.empty(*shape, dtype=torch.float8_e4m3fn, device=device)
    return rows, torch.empty(shape[0], 1, dtype=torch.float32, device=device)


def float8_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> CudaLinear:
    """The layer of weight[N, K] in 8-bit floats, rounded where it lies."""
    narrow, scales = float8_rows(weight)
    return CudaFloat8Linear(narrow, bias, scales.t().contiguous())


def float8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight[N, K] / scales in float8_e4m3fn, scales[N, 1])"""
    largest = weight.abs().amax(dim=1, keepdim=True).float()
    scales = torch.where(largest > 0, largest / E4M3_MAX, 1.0)
    return (weight.float() / scales).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scales


def check_multiplies_float8(gpu: Gpu) -> None:
    """Raise UsageError where the GPU has no products of 8-bit floats."""
    if gpu.capability >= _CAPABILITY:
        return
    major, minor = gpu.capability
    raise UsageError(
        f"--dtype fp8: {gpu.name} (compute capability {major}.{minor}) has no products of 8-bit floats",
        "use --dtype bfloat16; GPUs from compute capability 8.9 on (Ada, Hopper) have them",
    )
