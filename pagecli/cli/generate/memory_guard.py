"""Checks that a job fits in this machine's memory and open files, before torch, weights or a download are loaded."""

import os
import resource

from pagecli.core.dtypes import WEIGHT_BYTES
from pagecli.core.engine_config import EngineConfig
from pagecli.devices import memory_needs
from pagecli.devices.cpu.memory_budget import available_bytes
from pagecli.errors import InputError
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.local_device import multiplies_bfloat16

NUM_DESCRIPTORS = 16  # input, output, journal, lock, signals, weights, and one for each module while it is imported


def check_descriptors() -> None:
    """Raises InputError if this process may not open as many files as a job needs."""
    opened: list[int] = []
    try:
        for _ in range(NUM_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise InputError(f"too few files may be open at a time: the limit is {limit}", "raise it: ulimit -n 1024") from error
    finally:
        for fd in opened:
            os.close(fd)


def check_fits(config: EngineConfig) -> None:
    """Raises ModelError with the sum, and the largest value that fits, if what `config` asks for is more than is available.

    A GPU's memory is divided when it is there (devices/cuda/startup.py).
    """
    if config.device == "cuda":
        return
    source = resolve_model(config.model, "dummy")
    dtype = config.dtype
    if dtype == "auto":
        dtype = "bfloat16" if multiplies_bfloat16() else "float32"
    dtype_bytes = WEIGHT_BYTES[dtype]
    needs = memory_needs.MemoryNeeds(
        weights=memory_needs.weight_bytes(source.config, dtype_bytes),
        head_bounds=memory_needs.head_bounds_bytes(source.config, dtype_bytes),
        activations=memory_needs.activation_bytes(source.config, config.max_batch_tokens),
        logits=memory_needs.logits_bytes(source.config, config.max_num_seqs),
        kv=config.kv_memory_bytes or 0,
        swap=config.swap_memory_bytes,
    )
    needs.check_fit(source.name, available_bytes(), dtype_bytes)
