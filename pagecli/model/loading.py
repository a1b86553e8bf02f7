"""Opens a model's weights, builds the model of its family from them, and sees that nothing is missing or left over."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pagecli.core.dtypes import CPU_DTYPES, GPU_DTYPES
from pagecli.errors import ModelError, UsageError
from pagecli.model.layers import WeightLoader
from pagecli.model.llama import LlamaModel
from pagecli.model.opt import OPTModel
from pagecli.model.registry import Model, ModelSource
from pagecli.model.weights import WeightSource
from pagecli.model.weights.reader import WeightReader

if TYPE_CHECKING:
    import torch

    from pagecli.model.cuda_layers import CudaModel

_FAMILIES: dict[str, type[OPTModel] | type[LlamaModel]] = {"opt": OPTModel, "llama": LlamaModel}
_HEAD_DIMS = range(32, 257)  # what the attention kernels take


def load_on_gpu(source: ModelSource, dtype: str, device: "torch.device") -> "CudaModel":
    """The model on a GPU, as one of GPU_DTYPES. Raises ModelError where the GPU's kernels do not fit it."""
    if dtype not in GPU_DTYPES:
        raise UsageError(f"dtype {dtype!r} is not computed on a GPU", f"use {', '.join(GPU_DTYPES)}")
    from pagecli.model import cuda_loading

    model, loader, where = cuda_loading.load(source, dtype, device, open_weights)
    _check_nothing_left(loader, source.config.num_layers, where)
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
    weights = open_weights(source)
    loader = WeightLoader(weights, dtype)
    model = _FAMILIES[config.family](config, loader, max_batch_tokens)
    _check_nothing_left(loader, config.num_layers, weights.where)
    return model


def open_weights(source: ModelSource) -> WeightSource:
    """Each kind's module is imported when it is needed: gguf alone takes 0.25 s, pickles need torch."""
    if source.kind == "dummy":
        from pagecli.model.weights.dummy import DummySource

        return DummySource()
    assert source.weights_path is not None
    if source.kind == "gguf":
        from pagecli.model.weights.gguf_file import GgufSource

        return GgufSource(source.weights_path, source.config)
    if source.kind == "pickle":
        from pagecli.model.weights.pickle_file import PickleSource

        return PickleSource(source.weights_path)
    from pagecli.model.weights.safetensors_file import SafetensorsSource

    return SafetensorsSource(source.weights_path)


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
