"""Loads a program's weights for the CPU's kernels."""

from pagecli.core.dtypes import CPU_DTYPES, GPU_DTYPES
from pagecli.devices.cpu.model import CpuModel
from pagecli.devices.cpu.weights import CpuWeights
from pagecli.errors import ModelError, UsageError
from pagecli.model.build_program import build
from pagecli.model.registry import ModelSource
from pagecli.model.weights.open import open_weights
from pagecli.model.weights.reader import WeightReader

_HEAD_DIMS = range(32, 257)  # what the attention kernels take


def load(source: ModelSource, dtype: str, max_batch_tokens: int) -> CpuModel:
    """The model, its weights packed as `dtype` (one of CPU_DTYPES). Raises ModelError where the CPU's kernels do not fit it."""
    if dtype not in CPU_DTYPES:
        where = "on a GPU only" if dtype in GPU_DTYPES else "nowhere"
        raise UsageError(f"dtype {dtype!r} is computed {where}", f"use {', '.join(CPU_DTYPES)}")
    if max_batch_tokens < 1:
        raise UsageError(f"max_batch_tokens is {max_batch_tokens}", "it must be at least 1")
    if source.config.head_dim not in _HEAD_DIMS:
        size = source.config.head_dim
        raise ModelError(f"{source.name}: heads of size {size} are not supported", "sizes 32 to 256 are")
    program, reader = build(source.config), WeightReader(open_weights(source))
    weights = CpuWeights(program, reader, dtype)
    reader.check_nothing_left(program)
    return CpuModel(program, weights, max_batch_tokens)
