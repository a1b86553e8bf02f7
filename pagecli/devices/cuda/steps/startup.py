"""Starts the GPU runner: measures the largest step and the graphs on a cache of one block, and makes the cache of the rest."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from pagecli.core.dtypes import TORCH_NAMES
from pagecli.core.model_config import ModelConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import Chunk, SampleSpec, StepPlan
from pagecli.devices.base import KVCache, RunSettings
from pagecli.devices.cuda.errors import DeviceMemoryError, device_errors
from pagecli.devices.cuda.model.attention import most_partial_bytes
from pagecli.devices.cuda.model.model import CudaModel
from pagecli.devices.cuda.presence import check_block_size
from pagecli.devices.cuda.steps import graphs
from pagecli.devices.cuda.steps.memory_plan import GpuMemoryPlan
from pagecli.devices.cuda.steps.runner import CudaRunner, RunnerLimits
from pagecli.devices.cuda.streams import Gpu
from pagecli.devices.memory import block_bytes, most_useful_blocks

GRAPHS_PER_SIZE = 3  # contexts cut or not and block tables of two widths, for each size; further ones run without a graph


Make = Callable[..., Any]  # of CudaRunner, or a runner that is made as it is


def start(model: CudaModel, settings: RunSettings) -> CudaRunner:
    """A runner with its cache.

    Raises UsageError for block sizes the GPU's kernels do not take, ModelError with the sum where memory does not suffice.
    """
    runner = start_in(model, settings, measure(model, settings, CudaRunner), CudaRunner)
    assert isinstance(runner, CudaRunner)
    return runner


def measure(model: CudaModel, settings: RunSettings, make: Make) -> GpuMemoryPlan:
    """What the weights, the largest step and the graphs take. Raises as `start`."""
    check_block_size(settings.block_size)
    device = model.gpu
    device.synchronize()  # the weights are there
    device.release_reserve()  # of what loading them took besides
    free = device.free_bytes()
    memory = GpuMemoryPlan(settings.name, model.weight_bytes, free, 0, 0)
    try:
        return _measure(model, device, settings, memory, make)
    except DeviceMemoryError as error:
        raise memory.does_not_fit(0, f"the largest step takes more: {error.message}") from None


def num_kv_blocks(model: CudaModel, settings: RunSettings, memory: GpuMemoryPlan) -> int:
    """Blocks of the cache that the settings ask for, or that there is room and use for. Raises ModelError."""
    bytes_each = block_bytes(model.config, settings.block_size, settings.kv_dtype)
    useful = most_useful_blocks(settings.max_num_seqs, settings.max_model_len, settings.block_size)
    return memory.num_kv_blocks(settings.kv_memory_bytes, bytes_each, useful)


def start_in(model: CudaModel, settings: RunSettings, memory: GpuMemoryPlan, make: Make) -> Any:
    """A runner with its cache, in the memory that was measured."""
    device, num_blocks = model.gpu, num_kv_blocks(model, settings, memory)
    try:
        cache = _allocate(device, model.config, num_blocks, settings)
        swap = _allocate(device, model.config, settings.num_swap_blocks, settings, pinned=True)
        runner = _runner(model, device, settings, make, cache, swap)
        device.synchronize()
    except DeviceMemoryError as error:
        bytes_each = block_bytes(model.config, settings.block_size, settings.kv_dtype)
        raise memory.does_not_fit(num_blocks * bytes_each, error.message) from None
    return runner


def _runner(
    model: CudaModel,
    device: Gpu,
    settings: RunSettings,
    make: Make,
    cache: KVCache[torch.Tensor],
    swap: KVCache[torch.Tensor] | None = None,
    writes_kv: bool = True,
) -> Any:
    limits = RunnerLimits(
        settings.block_size,
        settings.max_num_seqs,
        settings.max_batch_tokens,
        settings.max_model_len,
        _max_graphs(settings, model.num_adapters),
        writes_kv,
    )
    with device_errors("setting up the runner"):
        return make(model, device, cache, limits, swap)


def _allocate(
    device: Gpu, config: ModelConfig, num_blocks: int, settings: RunSettings, pinned: bool = False
) -> KVCache[torch.Tensor]:
    """K and V as devices/base.KVCache describes them."""
    shape, make = (num_blocks, config.num_kv_heads, settings.block_size, config.head_dim), device.empty
    if pinned:
        make = device.pinned
    dtype = getattr(torch, TORCH_NAMES.get(settings.kv_dtype, settings.kv_dtype))
    planes = [make(*shape, dtype=dtype) for _ in range(2 * config.num_layers)]
    return KVCache(planes[: config.num_layers], planes[config.num_layers :])


def _measure(model: CudaModel, device: Gpu, settings: RunSettings, memory: GpuMemoryPlan, make: Make) -> GpuMemoryPlan:
    """`memory` with what the largest step and the graphs turn out to take, on a cache of one block."""
    runner = _runner(model, device, settings, make, _allocate(device, model.config, 1, settings), writes_kv=False)
    for plan in _largest_steps(settings, model.num_adapters):
        runner.run(plan)
    device.synchronize()
    after_steps = device.free_bytes()
    graphs = _measure_graphs(runner, device, settings, model.num_adapters) if settings.cuda_graphs else 0
    del runner
    device.release_reserve()
    rows = settings.max_batch_tokens if model.dtype == torch.float32 else settings.max_num_seqs
    partials = len(model.windows) * most_partial_bytes(model.attention_shape, rows)  # contexts here are too short to be cut
    step = max(0, memory.free - after_steps) + partials
    return replace(memory, step=step, graphs=graphs + partials if graphs else 0)


def _measure_graphs(runner: Any, device: Gpu, settings: RunSettings, num_adapters: int) -> int:
    """Bytes of all graphs there may be: they share the memory of the largest, and each has its list of launches besides."""
    free = [device.free_bytes()]
    for size in graphs.batch_sizes(settings.max_num_seqs)[:-3:-1]:
        for _ in range(2):  # by itself, then captured
            runner.run(_decodes(size, settings, num_adapters))
        free.append(device.free_bytes())
    taken = [max(0, before - after) for before, after in pairwise(free)]
    return taken[0] + taken[-1] * (_max_graphs(settings, num_adapters) - 1)


def _max_graphs(settings: RunSettings, num_adapters: int) -> int:
    """With adapters, each graph once for steps in which a row has one, and once for those in which none has."""
    each = GRAPHS_PER_SIZE * (2 if num_adapters else 1)
    return each * len(graphs.batch_sizes(settings.max_num_seqs)) if settings.cuda_graphs else 0


def _largest_steps(settings: RunSettings, num_adapters: int) -> list[StepPlan]:
    """Steps of as many tokens as there may be: of one sequence, and of as many as there may be."""
    each = [min(settings.max_batch_tokens, settings.max_model_len)]
    share, rest = divmod(settings.max_batch_tokens, settings.max_num_seqs)
    spread = [min(share + (i < rest), settings.max_model_len) for i in range(settings.max_num_seqs)]
    return [_plan(lengths, settings, num_adapters) for lengths in (each, spread)]


def _decodes(num_seqs: int, settings: RunSettings, num_adapters: int) -> StepPlan:
    return _plan([1] * num_seqs, settings, num_adapters)


def _plan(lengths: list[int], settings: RunSettings, num_adapters: int) -> StepPlan:
    """A step of sequences of so many tokens, which take the adapters in turn."""
    adapters = [i % num_adapters for i in range(len(lengths))] if num_adapters else ()
    return StepPlan([_chunk(i, n, settings) for i, n in enumerate(lengths)], [], adapters=adapters)


def _chunk(seq_id: int, num_tokens: int, settings: RunSettings) -> Chunk:
    """Tokens of a sequence that has nothing but the cache's one block."""
    params = SamplingParams(temperature=1.0, top_p=0.9)
    spec = SampleSpec(params, 0, 0, [0] * num_tokens, num_tokens, ())
    return Chunk(seq_id, [0] * num_tokens, 0, [0] * -(-num_tokens // settings.block_size), (spec,))
