"""Loads a model onto a device."""

from typing import TYPE_CHECKING

from pagecli.core.dtypes import DTYPES
from pagecli.devices.base import Model
from pagecli.errors import UsageError
from pagecli.model.registry import ModelSource

if TYPE_CHECKING:
    pass


def load_model(source: ModelSource, dtype: str, max_batch_tokens: int, device: str = "cpu") -> Model:
    """Read and pack the weights as `dtype` (one of DTYPES); forward will take up to max_batch_tokens tokens.

    device "cuda": onto the GPU instead. Raises ModelError naming the file when weights are missing, truncated, or not those the
    config describes.
    """
    if device == "cuda":
        from pagecli.devices.cuda import kernels, loading

        return loading.load(source, dtype, kernels.find_device())
    from pagecli.devices.cpu.loading import load

    return load(source, dtype, max_batch_tokens)


def resolve_dtype(dtype: str) -> str:
    """ "auto" -> "bfloat16" where the kernels in use multiply bfloat16 natively, else "float32"; others as they are."""
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown", f"use auto, {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    from pagecli.devices.cpu import kernels

    return "bfloat16" if kernels.isa_name() in ("avx512bf16", "amx") else "float32"
