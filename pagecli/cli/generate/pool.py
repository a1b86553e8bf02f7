"""The pool of engines of `generate --workers` and `--ray`, as its flags ask for it."""

import re
import time
from collections.abc import Callable

from pagecli.cli.generate.job import GenerateJob, check_chat
from pagecli.cli.generate.options import PoolOptions
from pagecli.cli.terminal.console import Console
from pagecli.core.engine_config import EngineConfig
from pagecli.devices.cuda.presence import gpus_for
from pagecli.engine import loaded_model, placement, replicas
from pagecli.errors import UsageError
from pagecli.jobs.workers.pool import EnginePool
from pagecli.jobs.workers.sources import LocalWorkers, WorkerSource
from pagecli.jobs.workers.worker import MODULE

MAX_WORKERS = 1024


def load_pool(job: GenerateJob, console: Console, on_loading: Callable[[int, int], None]) -> EnginePool:
    """Starts the workers; returns when the first has loaded its model. Raises UsageError, ModelError."""
    assert job.pool is not None
    started = time.perf_counter()
    asked = None if job.pool.workers == "auto" else _number(job.pool.workers)
    if job.pool.ray is not None:
        config, count, source = _of_ray(job.engine, job.pool, asked)
    else:
        config, count, source = _of_this_host(job.engine, asked, console)
    console.detail(f"starting {count} workers, each with {config}")
    record = None
    if job.profile is not None:
        from pagecli.cli.generate.recorded_pool import recording_of_workers

        record = recording_of_workers(job.input, job.engine.model)
    settings = job.pool.timeout, job.mixed_hardware
    pool = EnginePool(config, count, source, *settings, say=console.warning, on_loading=on_loading, record=record)
    pool.load_seconds = time.perf_counter() - started
    try:
        check_chat(job, pool.tokenizer)
    except BaseException:
        pool.close()
        raise
    return pool


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= MAX_WORKERS:
        raise UsageError(f"--workers is {text!r}", f"give a number from 1 to {MAX_WORKERS}, or auto")
    return int(text)


def _of_this_host(engine: EngineConfig, asked: int | None, console: Console) -> tuple[EngineConfig, int, WorkerSource]:
    count = replicas.default_count(engine) if asked is None else asked
    loaded_model.check_fits(engine, count)
    found = loaded_model.resolve(engine, count)
    for note in found.source.notes:
        console.warning(note)
    config, gpus = replicas.config_of_each(engine, found, count), list[str]()
    if found.device == "cuda":
        size = engine.tensor_parallel_size
        each = gpus_for(count * size, f"--workers {count}" + (f" --tensor-parallel-size {size}" if size > 1 else ""))
        gpus = [",".join(each[first : first + size]) for first in range(0, count * size, size)]
    return config, count, LocalWorkers(placement.placement(count), MODULE, gpus)


def _of_ray(engine: EngineConfig, pool: PoolOptions, asked: int | None) -> tuple[EngineConfig, int, WorkerSource]:
    from pagecli.jobs.workers.ray_workers import RayOptions, RayWorkers

    assert pool.ray is not None
    found = loaded_model.resolve(engine)
    cpus = None if engine.threads is None else engine.threads * engine.tensor_parallel_size
    source = RayWorkers(RayOptions(pool.ray, pool.ray_port, cpus, gpus=int(found.device == "cuda")), asked)
    try:
        config = replicas.with_kv_memory(engine, found, 1, source.memory_bytes_each())
    except BaseException:
        source.close()
        raise
    return config, asked or 1, source
