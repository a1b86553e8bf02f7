"""Loads a program's weights onto a GPU."""

import torch

from pagecli.core.dtypes import GPU_DTYPES
from pagecli.devices.cuda.dummy_weights import CudaDummySource
from pagecli.devices.cuda.errors import device_errors
from pagecli.devices.cuda.linear import check_multiplies_float8
from pagecli.devices.cuda.model import CudaModel
from pagecli.devices.cuda.weights import CudaWeightReader, CudaWeights
from pagecli.errors import ModelError, UsageError
from pagecli.model.build_program import build
from pagecli.model.registry import ModelSource
from pagecli.model.weights.open import open_weights


def load(source: ModelSource, dtype: str, place: torch.device) -> CudaModel:
    """The model as one of GPU_DTYPES. Raises ModelError where the GPU's kernels do not fit it."""
    if dtype not in GPU_DTYPES:
        raise UsageError(f"dtype {dtype!r} is not computed on a GPU", f"use {', '.join(GPU_DTYPES)}")
    if dtype == "fp8":
        check_multiplies_float8(place)
    config = source.config
    if config.head_dim % 8 != 0 or config.head_dim > 256:
        raise ModelError(f"{source.name}: heads of size {config.head_dim} are not supported", "multiples of 8 to 256 are")
    if config.rope is not None and config.rope.rotary_dim % 16 != 0:
        raise ModelError(f"{source.name}: {config.rope.rotary_dim} rotary dimensions are not supported", "multiples of 16 are")
    with torch.no_grad(), device_errors(f"loading the weights of {source.name}"):
        weights = CudaDummySource(place) if source.kind == "dummy" else open_weights(source)
        computed = torch.bfloat16 if dtype == "fp8" else getattr(torch, dtype)
        program, reader = build(config), CudaWeightReader(weights, computed, place)
        loaded = CudaWeights(program, reader, float8=dtype == "fp8")
        reader.check_nothing_left(program)
        return CudaModel(program, loaded)
