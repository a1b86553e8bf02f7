"""The CPU as a device: native kernels, weights packed for them, K and V in the host's memory."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pagecli.core import arrays
from pagecli.core.dtypes import CPU_DTYPES, CPU_KV_DTYPES, GPU_DTYPES, QUANTIZED_DTYPES, check_known
from pagecli.devices.base import CPU_HEAD_DIMS, RunSettings
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.model import CpuModel
from pagecli.devices.cpu.runner import ModelRunner, start
from pagecli.devices.cpu.weights import quantized_weight
from pagecli.devices.cpu.weights.packed_weight import CpuWeights, PackedExperts, PackedWeight
from pagecli.devices.memory import available_bytes
from pagecli.errors import UsageError
from pagecli.model.program import Program, Weight
from pagecli.model.source import ModelSource
from pagecli.model.weights.reader import WeightReader, open_weights

if TYPE_CHECKING:
    from pagecli.devices.cpu.partial_products import SharedParts

MOST_SECTIONS = 4  # of a matrix: Q, K and V, or gate and up, quantized in their own ways


class CpuDevice:
    """See devices/base.Device."""

    name = "cpu"

    @property
    def isa(self) -> str:
        return kernels.isa_name()

    def check_available(self) -> None:
        pass

    def available_bytes(self) -> int:
        return available_bytes()

    def resolve_dtype(self, dtype: str) -> str:
        """ "auto" -> "bfloat16" where the kernels in use multiply bfloat16 natively, else "float32"."""
        if dtype == "auto":
            return "bfloat16" if kernels.isa_name() in ("avx512bf16", "amx", "neon_bf16") else "float32"
        if dtype not in CPU_DTYPES:
            check_known(dtype)
            raise UsageError(f"--dtype {dtype} is computed on a GPU only", "use --device cuda, or --dtype int8 or bfloat16")
        return dtype

    def check_cache(self, kv_dtype: str, block_size: int, dtype: str, head_dim: int) -> None:
        if kv_dtype not in ("auto", *CPU_KV_DTYPES):
            raise UsageError(f"--kv-dtype {kv_dtype} is for GPUs", "use --device cuda, or --kv-dtype int8")

    def load(
        self,
        source: ModelSource,
        dtype: str,
        max_batch_tokens: int,
        of_program: Callable[[Program], Program] = lambda program: program,
        shared: "SharedParts | None" = None,
    ) -> CpuModel:
        """As Device.load; `of_program`: what is loaded of the model's program (model/shards.py)."""
        if dtype not in CPU_DTYPES:
            where = "on a GPU only" if dtype in GPU_DTYPES else "nowhere"
            raise UsageError(f"dtype {dtype!r} is computed {where}", f"use {', '.join(CPU_DTYPES)}")
        if max_batch_tokens < 1:
            raise UsageError(f"max_batch_tokens is {max_batch_tokens}", "it must be at least 1")
        if source.config.head_dim not in CPU_HEAD_DIMS:
            from pagecli.devices.limits import check_computed

            check_computed(self.name, source.name, source.config)
        reader = WeightReader(open_weights(source), source.on_read)
        program = reader.program(source.config)
        reader.check_nothing_left(program)
        if source.adapters:
            from pagecli.model.adapters.adapted_program import adapted

            program = adapted(program, source.adapters)
        program = of_program(program)
        weights = packed_weights(program, reader, dtype, source.keep_quantized and dtype in QUANTIZED_DTYPES)
        return CpuModel(program, weights, max_batch_tokens, (*source.notes, *reader.notes), shared)

    def start(self, model: CpuModel, settings: RunSettings) -> ModelRunner:
        return start(model, settings)


def packed_weights(program: Program, reader: WeightReader, dtype: str, keep: bool) -> CpuWeights:
    """Packs a program's weights as they are read, as `dtype`: peak memory is what is packed plus the tensor at hand. With
    `keep` those that are quantized in the checkpoint stay so."""
    found = CpuWeights()
    for weight in program.weights():
        packed_as = "float32" if weight.exact else dtype
        if weight.columns and weight.experts:
            found.add_experts(weight, _pack_experts(weight, reader, packed_as, keep and not weight.exact))
            reader.source.release()
        elif weight.experts:
            found.add_vector(weight, np.stack([arrays.to_float32(vector) for vector in reader.experts(weight)]))
        elif weight.columns:
            found.add_matrix(weight, _pack(weight, reader, packed_as, keep and not weight.exact))
            reader.source.release()
        else:  # norms and biases are small and always wanted exactly
            found.add_vector(weight, np.array(arrays.to_float32(reader.read(weight))))
    return found


def _pack_experts(weight: Weight, reader: WeightReader, dtype: str, keep: bool) -> PackedExperts:
    quantized = (reader.quantized_expert(weight, expert) for expert in range(weight.experts))
    kept = kernels.pack_quantized_experts(quantized, weight.experts, dtype) if keep else None
    return kernels.pack_experts(reader.experts(weight), weight.experts, dtype) if kept is None else kept


def _pack(weight: Weight, reader: WeightReader, dtype: str, keep: bool) -> list[PackedWeight]:
    quantized = reader.quantized(weight) if keep else None
    sections = [] if quantized is None else quantized.sections()
    most = 1 if weight.whole_columns else MOST_SECTIONS
    if 1 <= len(sections) <= most and all(map(quantized_weight.can_pack, sections)):
        packed = [kernels.pack_quantized(section, dtype) for section in sections]
        kept = [section for section in packed if section is not None]
        if len(kept) == len(packed):
            return kept
    return [kernels.pack_weight(reader.read(weight), dtype)]
