"""Opens a model's weights, builds the model of its family from them, and sees that nothing is missing or left over."""

import re
from pathlib import Path

import torch

from pagecli.errors import ModelError, UsageError
from pagecli.kernels.cuda_errors import device_errors
from pagecli.model.cuda_layers import CudaWeightLoader
from pagecli.model.cuda_linear import check_multiplies_float8
from pagecli.model.cuda_llama import CudaLlamaModel
from pagecli.model.cuda_opt import CudaOPTModel
from pagecli.model.dtypes import CPU_DTYPES, GPU_DTYPES
from pagecli.model.layers import WeightLoader
from pagecli.model.llama import LlamaModel
from pagecli.model.opt import OPTModel
from pagecli.model.registry import Model, ModelSource
from pagecli.model.weights import WeightSource

_FAMILIES: dict[str, type[OPTModel] | type[LlamaModel]] = {"opt": OPTModel, "llama": LlamaModel}
_GPU_FAMILIES: dict[str, type[CudaOPTModel] | type[CudaLlamaModel]] = {"opt": CudaOPTModel, "llama": CudaLlamaModel}
_HEAD_DIMS = range(32, 257)  # what the attention kernels take


def load_on_gpu(source: ModelSource, dtype: str, device: torch.device) -> CudaLlamaModel | CudaOPTModel:
    """The model on a GPU, as one of GPU_DTYPES. Raises ModelError where the GPU's kernels do not fit it."""
    if dtype not in GPU_DTYPES:
        raise UsageError(f"dtype {dtype!r} is not computed on a GPU", f"use {', '.join(GPU_DTYPES)}")
    if dtype == "fp8":
        check_multiplies_float8(device)
    config = source.config
    if config.head_dim % 8 != 0 or config.head_dim > 256:
        raise ModelError(f"{source.name}: heads of size {config.head_dim} are not supported", "multiples of 8 to 256 are")
    if config.rope is not None and config.rope.rotary_dim % 16 != 0:
        raise ModelError(f"{source.name}: {config.rope.rotary_dim} rotary dimensions are not supported", "multiples of 16 are")
    with torch.no_grad(), device_errors(f"loading the weights of {source.name}"):
        weights = _open(source, device)
        loader = CudaWeightLoader(weights, torch.bfloat16 if dtype == "fp8" else getattr(torch, dtype), device, dtype == "fp8")
        model = _GPU_FAMILIES[config.family](config, loader)
    _check_nothing_left(loader, config.num_layers, weights.where)
    return model


def load(source: ModelSource, dtype: str, max_batch_tokens: int) -> Model:
    """See registry.load_model."""
    if dtype not in CPU_DTYPES:
        where = "on a GPU only" if dtype in GPU_DTYPES else "nowhere"
        raise UsageError(f"dtype {dtype!r} is computed {where}", f"use {', '.join(CPU_DTYPES)}")
    if max_batch_tokens < 1:
        raise UsageError(f"max_batch_tokens is {max_batch_tokens}", "it must be at least 1")
    config = source.config
    if config.head_dim not in _HEAD_DIMS:
        raise ModelError(f"{source.name}: heads of size {config.head_dim} are not supported", "sizes 32 to 256 are")
    with torch.no_grad():
        weights = _open(source)
        loader = WeightLoader(weights, getattr(torch, dtype))
        model = _FAMILIES[config.family](config, loader, max_batch_tokens)
    _check_nothing_left(loader, config.num_layers, weights.where)
    return model


def _open(source: ModelSource, device: torch.device | str = "cpu") -> WeightSource:
    """Each kind's module is imported when it is needed: gguf alone takes 0.25 s. Files are read on the host."""
    if source.kind == "dummy":
        from pagecli.model.weights.dummy import DummySource

        return DummySource(device)
    assert source.weights_path is not None
    if source.kind == "gguf":
        from pagecli.model.weights.gguf_file import GgufSource

        return GgufSource(source.weights_path, source.config)
    if source.kind == "pickle":
        from pagecli.model.weights.pickle_file import PickleSource

        return PickleSource(source.weights_path)
    from pagecli.model.weights.safetensors_file import SafetensorsSource

    return SafetensorsSource(source.weights_path)


def _check_nothing_left(loader: WeightLoader, num_layers: int, where: Path | str) -> None:
    """A tensor left over in a layer (a bias, a norm) means another architecture than config.json says: wrong text, silently.

    Layers beyond num_layers and old files' rotary tables are none of the model's business.
    """
    for name in loader.unread():
        layer = re.search(r"layers\.(\d+)\.", name)
        if layer and int(layer[1]) < num_layers and not name.endswith(("rotary_emb.inv_freq", "masked_bias")):
            raise ModelError(
                f"{where}: tensor {name} does not belong to the architecture config.json names", "is config.json its own?"
            )
