"""Builds the GPU's model of a family: what the GPU can compute, and where the weights go."""

from collections.abc import Callable

import torch

from pagecli.devices.cuda.dummy_weights import CudaDummySource
from pagecli.devices.cuda.errors import device_errors
from pagecli.devices.cuda.layers import CudaModel, CudaWeightLoader
from pagecli.devices.cuda.linear import check_multiplies_float8
from pagecli.devices.cuda.llama import CudaLlamaModel
from pagecli.devices.cuda.opt import CudaOPTModel
from pagecli.errors import ModelError
from pagecli.model.registry import ModelSource
from pagecli.model.weights import WeightSource

_FAMILIES: dict[str, type[CudaOPTModel] | type[CudaLlamaModel]] = {"opt": CudaOPTModel, "llama": CudaLlamaModel}


def load(
    source: ModelSource, dtype: str, device: torch.device, open_weights: Callable[[ModelSource], WeightSource]
) -> tuple[CudaModel, CudaWeightLoader]:
    """The model and the loader that read it. Raises ModelError where the kernels do not fit."""
    if dtype == "fp8":
        check_multiplies_float8(device)
    config = source.config
    if config.head_dim % 8 != 0 or config.head_dim > 256:
        raise ModelError(f"{source.name}: heads of size {config.head_dim} are not supported", "multiples of 8 to 256 are")
    if config.rope is not None and config.rope.rotary_dim % 16 != 0:
        raise ModelError(f"{source.name}: {config.rope.rotary_dim} rotary dimensions are not supported", "multiples of 16 are")
    with torch.no_grad(), device_errors(f"loading the weights of {source.name}"):
        weights = CudaDummySource(device) if source.kind == "dummy" else open_weights(source)
        computed = torch.bfloat16 if dtype == "fp8" else getattr(torch, dtype)
        loader = CudaWeightLoader(weights, computed, device, dtype == "fp8")
        return _FAMILIES["opt" if config.architecture == "OPTForCausalLM" else "llama"](config, loader), loader
