"""Transformers' own modules as a device (--model-impl transformers): torch, and the CPU's paged attention and KV cache."""

import importlib.metadata

from pagecli.core.dtypes import CPU_KV_DTYPES, check_known
from pagecli.devices.base import RunSettings
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.device import ModelRunner, start
from pagecli.devices.limits import check_computed
from pagecli.devices.memory import available_bytes, check_weights_fit
from pagecli.devices.transformers_modules.model import TransformersModel
from pagecli.errors import ModelError, UsageError
from pagecli.model.source import ModelSource

_DTYPES = ("float32", "bfloat16")


class TransformersDevice:
    """See devices/base.Device."""

    name = "transformers"

    @property
    def isa(self) -> str:
        """Both libraries compute, so both decide the bits."""
        return " ".join(
            (kernels.isa_name(), *(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")))
        )

    def check_available(self) -> None:
        pass

    def available_bytes(self) -> int:
        return available_bytes()

    def resolve_dtype(self, dtype: str) -> str:
        """ "auto" -> "float32", in which transformers' modules differ least from batch to batch."""
        check_known(dtype)
        if dtype not in ("auto", *_DTYPES):
            raise UsageError(f"--dtype {dtype} is not computed by transformers' modules", f"use {' or '.join(_DTYPES)}")
        return "float32" if dtype == "auto" else dtype

    def check_cache(self, kv_dtype: str, block_size: int, dtype: str, head_dim: int) -> None:
        if kv_dtype not in ("auto", *CPU_KV_DTYPES):
            raise UsageError(f"--kv-dtype {kv_dtype} is for GPUs", "leave it out, or use --kv-dtype int8")

    def load(self, source: ModelSource, dtype: str, max_batch_tokens: int) -> TransformersModel:
        if source.kind not in ("safetensors", "pickle") or source.weights_path is None:
            raise ModelError(f"{source.name}: transformers' modules need a checkpoint in its layout", "leave out --model-impl")
        if source.adapters or source.merged_adapter is not None:
            raise UsageError("--lora and --merge-lora are not for transformers' modules", "merge the adapter with PEFT first")
        import torch
        from transformers.utils import logging

        directory = source.weights_path.parent
        stored = sum(path.stat().st_size for path in directory.glob(f"*{source.weights_path.suffixes[0]}"))
        check_weights_fit(stored, source.name)
        torch.set_num_threads(kernels.num_threads())
        logging.disable_progress_bar()
        model = TransformersModel(directory, source.name, source.config, dtype)
        check_computed("cpu", source.name, model.config)
        return model

    def start(self, model: TransformersModel, settings: RunSettings) -> ModelRunner:
        return start(model, settings)
