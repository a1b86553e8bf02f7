"""A GPU as a device: the CUDA kernels and torch's GEMMs, weights and K and V in its memory."""

from collections.abc import Callable

import torch

from pagecli.core.dtypes import GPU_DTYPES, KV_DTYPES, check_known
from pagecli.devices.base import RunSettings
from pagecli.devices.cuda.errors import device_errors
from pagecli.devices.cuda.gpu import open_gpu
from pagecli.devices.cuda.model.dummy_weights import CudaDummySource
from pagecli.devices.cuda.model.linear import check_multiplies_float8
from pagecli.devices.cuda.model.model import CudaModel
from pagecli.devices.cuda.model.weights import CudaWeightReader, CudaWeights
from pagecli.devices.cuda.presence import check_block_size
from pagecli.devices.cuda.steps import startup
from pagecli.devices.cuda.steps.runner import CudaRunner
from pagecli.devices.cuda.streams import Gpu
from pagecli.devices.limits import check_computed, check_program, gpu_kv_dtypes
from pagecli.errors import UsageError
from pagecli.model.program import Program
from pagecli.model.registry import open_weights
from pagecli.model.source import ModelSource


class CudaDevice:
    """See devices/base.Device. The GPU is opened when it is first needed."""

    name = "cuda"

    def __init__(self, open_gpu: Callable[[], Gpu] = open_gpu) -> None:
        self._open = open_gpu
        self._gpu: Gpu | None = None

    @property
    def gpu(self) -> Gpu:
        """Raises ModelError where there is none."""
        if self._gpu is None:
            self._gpu = self._open()
        return self._gpu

    @property
    def isa(self) -> str:
        return "sm_" + "".join(map(str, self.gpu.capability))

    def check_available(self) -> None:
        assert self.gpu is not None

    @property
    def memory_bytes(self) -> int:
        """Of the GPU, whatever holds it."""
        return self.gpu.total_bytes

    def available_bytes(self) -> int:
        return self.gpu.free_bytes()

    def resolve_dtype(self, dtype: str) -> str:
        check_known(dtype)
        return "bfloat16" if dtype == "auto" else dtype

    def check_cache(self, kv_dtype: str, block_size: int, dtype: str, head_dim: int) -> None:
        check_block_size(block_size)
        choices = gpu_kv_dtypes(dtype, head_dim)
        if kv_dtype in ("auto", *choices):
            return
        hint = f"use --kv-dtype {' or '.join(choices)}, or --device cpu"
        if dtype not in KV_DTYPES:  # a cache that goes with the weights alone
            hint = "leave out --kv-dtype"
        raise UsageError(f"on a GPU this model's K and V are not kept in --kv-dtype {kv_dtype}", hint)

    def load(
        self,
        source: ModelSource,
        dtype: str,
        max_batch_tokens: int,
        of_program: Callable[[Program], Program] = lambda program: program,
        all_reduce: Callable[[torch.Tensor], None] | None = None,
    ) -> CudaModel:
        """As Device.load; `of_program`: what is loaded of the model's program (model/shards.py); `all_reduce`: what makes a sum
        of this rank's that of all ranks."""
        if dtype not in GPU_DTYPES:
            raise UsageError(f"dtype {dtype!r} is not computed on a GPU", f"use {', '.join(GPU_DTYPES)}")
        gpu, config = self.gpu, source.config
        if dtype == "fp8":
            check_multiplies_float8(gpu)
        check_computed(self.name, source.name, config)
        with torch.no_grad(), device_errors(f"loading the weights of {source.name}"):
            made_there = source.kind == "dummy" and source.merged_adapter is None
            opened = CudaDummySource(gpu.place) if made_there else open_weights(source)
            computed = torch.bfloat16 if dtype == "fp8" else getattr(torch, dtype)
            reader = CudaWeightReader(opened, computed, gpu, source.on_read)
            program = reader.program(config)
            reader.check_nothing_left(program)
            if source.adapters:
                from pagecli.model.adapters.adapted_program import adapted

                program = adapted(program, source.adapters)
            program = of_program(program)
            check_program(source.name, program)
            weights = CudaWeights(program, reader, float8=dtype == "fp8")
            return CudaModel(program, weights, gpu, tuple(reader.notes), all_reduce)

    def start(self, model: CudaModel, settings: RunSettings) -> CudaRunner:
        return startup.start(model, settings)
