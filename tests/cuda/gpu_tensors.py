"""Tensors for kernel tests: on the GPU, or on the CPU for the emulator; outputs poisoned, everything compared in float64."""

import os

import torch

EMULATED = bool(os.environ.get("PAGECLI_CUDA_EMULATED"))
DEVICE = torch.device("cpu" if EMULATED else "cuda")
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# What one rounding of the result to the type may cost, relative to values of about 1, and little more.
ULP = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2e-6}


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return values.to(dtype).to(DEVICE)


def poisoned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of NaN (of -1, for integers): what nobody writes is seen."""
    return torch.full(shape, float("nan") if dtype.is_floating_point else -1, dtype=dtype, device=DEVICE)


def as_e4m3(values: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """values / scale in 8-bit floats as torch rounds them, what is too large at their largest; NaN stays."""
    return (values.float() * (1 / torch.tensor(scale)).to(values.device)).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)


def strided(values: torch.Tensor, before: int = 8, after: int = 16) -> torch.Tensor:
    """`values` as a view whose rows lie apart in a buffer of NaN, still at multiples of 16 bytes."""
    buffer = poisoned(*values.shape[:-1], before + values.shape[-1] + after, dtype=values.dtype)
    view = buffer[..., before : before + values.shape[-1]]
    view.copy_(values)
    return view


def gaps_are_untouched(view: torch.Tensor, before: int = 8) -> bool:
    """Whether all between the rows of a `strided` view is still NaN."""
    buffer = view._base
    assert buffer is not None
    return bool(buffer[..., :before].isnan().all() and buffer[..., before + view.shape[-1] :].isnan().all())


def int_tensor(values: list[int] | list[list[int]], dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def assert_near(result: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Every element written, finite, and within `tolerance` of expected (float64), relative to 1 or to its size."""
    assert result.isfinite().all(), "an element was not written, or is not finite"
    error = (result.double().cpu() - expected.double().cpu()).abs() / expected.double().cpu().abs().clamp(min=1.0)
    assert error.numel() == 0 or error.max() <= tolerance, f"off by {error.max():.3g}, allowed {tolerance:.3g}"
