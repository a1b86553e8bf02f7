"""What is known of engines without loading one: how several on one machine share it, and what each of them would refuse."""

import dataclasses

from pagecli.core.engine_config import EngineConfig
from pagecli.devices import base, memory
from pagecli.devices.cuda.presence import visible_gpus
from pagecli.engine import loaded_model
from pagecli.engine.loaded_model import ResolvedModel, usable_cores
from pagecli.engine.placement import numa_nodes
from pagecli.engine.request import Admission
from pagecli.engine.scheduling.reservations import Reservations
from pagecli.errors import UsageError
from pagecli.kv.baselines.reserved_manager import ReservedManager
from pagecli.kv.manager import KVManager
from pagecli.kv.memory import KVMemory
from pagecli.model.shards import good_sizes

RANK_KV_BYTES = 1 << 30  # that a rank has room for, at the least


def config_of_each(config: EngineConfig, found: ResolvedModel, count: int) -> EngineConfig:
    """The settings of each of `count` engines on this machine: its cores divided, and its memory unless --kv-memory is given.

    All get the same number of KV blocks, so that each refuses the same rows. Raises ModelError if they do not fit.
    """
    shared = dataclasses.replace(config, threads=config.threads or max(1, usable_cores() // count))
    if found.source.keep_quantized:
        shared = dataclasses.replace(shared, quantization="keep")
    return with_kv_memory(shared, found, count, memory.available_bytes())


def with_kv_memory(config: EngineConfig, found: ResolvedModel, count: int, available_bytes: int) -> EngineConfig:
    """The settings of each of `count` engines that share so much memory; those of config if they say how much, or on GPUs."""
    if config.kv_memory_bytes is not None or found.device != "cpu":
        return config
    model = found.source.config
    max_model_len = min(config.max_model_len or model.max_positions, model.max_positions)
    block_bytes = memory.block_bytes(model, config.block_size, found.kv_dtype)
    weights = memory.weight_bytes_of(found.source, memory.bytes_each(model, found.dtype))
    available = available_bytes - count * weights
    useful = memory.most_useful_blocks(config.max_num_seqs, max_model_len, config.block_size)
    num_blocks = memory.num_kv_blocks(None, block_bytes, useful, max(0, available // count))
    return dataclasses.replace(config, kv_memory_bytes=num_blocks * block_bytes)


def admission_of(config: EngineConfig, vocab_size: int, max_model_len: int, num_blocks: int) -> Admission:
    """The check that an engine with so many KV blocks makes of each request."""
    if config.kv_policy == "paged":
        kv: KVMemory = KVManager(max(1, num_blocks), config.block_size)
        return Admission(kv, vocab_size, max_model_len, config.max_num_seqs, loras=config.loras)
    kv = ReservedManager(max(1, num_blocks), config.block_size)
    reservations = Reservations(kv, config.kv_policy, max_model_len)
    return Admission(kv, vocab_size, max_model_len, config.max_num_seqs, reservations, config.loras)


def least_ranks(config: EngineConfig) -> int:
    """--tensor-parallel-size auto: the least number of ranks of which each finds room for its shard and 1 GiB of KV cache in
    its part of the memory of this machine's NUMA nodes, or on its GPU; 1 on a single one. Raises UsageError, ModelError."""
    found = loaded_model.resolve(config)
    if found.device not in ("cpu", "cuda"):
        return 1
    if found.device == "cuda":
        most, available = len(visible_gpus() or "?"), base.find("cuda").available_bytes()
    else:
        most = len(numa_nodes())
        available = memory.available_bytes() // most
    room, model = available - RANK_KV_BYTES, found.source.config
    weights = memory.weight_bytes_of(found.source, memory.bytes_each(model, found.dtype))
    sizes = [size for size in good_sizes(model, found.dtype) if size <= most]
    for size in sizes:
        if memory.bytes_of_rank(model, weights, 0, size) <= room:
            return size
    return sizes[-1]  # the most that there is room for: loading says what is missing


def default_count(config: EngineConfig) -> int:
    """--workers auto: one engine for each NUMA node that this process may use, or for as many GPUs as it takes."""
    if base.choose(config.device).name != "cuda":
        return len(numa_nodes())
    gpus = visible_gpus()
    if gpus is None:
        raise UsageError("--workers auto, and this system does not say how many GPUs it has", "say how many: --workers 2")
    return max(1, len(gpus) // config.tensor_parallel_size)
