"""Loads a model onto a device, and sees that none of its weights is missing or left over."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pagecli.core.dtypes import CPU_DTYPES, DTYPES, GPU_DTYPES
from pagecli.devices.base import Model
from pagecli.errors import ModelError, UsageError
from pagecli.model.registry import ModelSource
from pagecli.model.weights.open import open_weights
from pagecli.model.weights.reader import WeightReader

if TYPE_CHECKING:
    import torch

    from pagecli.devices.cuda.layers import CudaModel

_HEAD_DIMS = range(32, 257)  # what the attention kernels take


def load_model(source: ModelSource, dtype: str, max_batch_tokens: int, device: str = "cpu") -> Model:
    """Read and pack the weights as `dtype` (one of DTYPES); forward will take up to max_batch_tokens tokens.

    device "cuda": onto the GPU instead. Raises ModelError naming the file when weights are missing, truncated, or not those the
    config describes.
    """
    if device == "cuda":
        from pagecli.devices.cuda import kernels

        return load_on_gpu(source, dtype, kernels.find_device())
    return _load_on_cpu(source, dtype, max_batch_tokens)


def resolve_dtype(dtype: str) -> str:
    """ "auto" -> "bfloat16" where the kernels in use multiply bfloat16 natively, else "float32"; others as they are."""
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown", f"use auto, {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    from pagecli.devices.cpu import kernels

    return "bfloat16" if kernels.isa_name() in ("avx512bf16", "amx") else "float32"


def load_on_gpu(source: ModelSource, dtype: str, device: "torch.device") -> "CudaModel":
    """The model on a GPU, as one of GPU_DTYPES. Raises ModelError where the GPU's kernels do not fit it."""
    if dtype not in GPU_DTYPES:
        raise UsageError(f"dtype {dtype!r} is not computed on a GPU", f"use {', '.join(GPU_DTYPES)}")
    from pagecli.devices.cuda import loading

    model, loader, where = loading.load(source, dtype, device, open_weights)
    _check_nothing_left(loader, source.config.num_layers, where)
    return model


def _load_on_cpu(source: ModelSource, dtype: str, max_batch_tokens: int) -> Model:
    from pagecli.devices.cpu.layers import WeightLoader
    from pagecli.devices.cpu.llama import LlamaModel
    from pagecli.devices.cpu.opt import OPTModel

    if dtype not in CPU_DTYPES:
        where = "on a GPU only" if dtype in GPU_DTYPES else "nowhere"
        raise UsageError(f"dtype {dtype!r} is computed {where}", f"use {', '.join(CPU_DTYPES)}")
    if max_batch_tokens < 1:
        raise UsageError(f"max_batch_tokens is {max_batch_tokens}", "it must be at least 1")
    config = source.config
    if config.head_dim not in _HEAD_DIMS:
        raise ModelError(f"{source.name}: heads of size {config.head_dim} are not supported", "sizes 32 to 256 are")
    weights = open_weights(source)
    loader = WeightLoader(weights, dtype)
    families: dict[str, type[OPTModel] | type[LlamaModel]] = {"opt": OPTModel, "llama": LlamaModel}
    model = families[config.family](config, loader, max_batch_tokens)
    _check_nothing_left(loader, config.num_layers, weights.where)
    return model


def _check_nothing_left(loader: WeightReader, num_layers: int, where: Path | str) -> None:
    """A tensor left over in a layer (a bias, a norm) means another architecture than config.json says: wrong text, silently.

    Layers beyond num_layers and old files' rotary tables are none of the model's business.
    """
    for name in loader.unread():
        layer = re.search(r"layers\.(\d+)\.", name)
        if layer and int(layer[1]) < num_layers and not name.endswith(("rotary_emb.inv_freq", "masked_bias")):
            raise ModelError(
                f"{where}: tensor {name} does not belong to the architecture config.json names", "is config.json its own?"
            )
