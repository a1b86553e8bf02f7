"""The pool of engines of `generate --workers`, as its flags ask for it."""

import re

from pagecli.cli.generate.job import GenerateJob, check_chat
from pagecli.cli.terminal.console import Console
from pagecli.core.child_process import ChildProcess
from pagecli.devices.memory import check_fits
from pagecli.engine import loaded_model, placement, replicas
from pagecli.errors import UsageError
from pagecli.jobs.workers.pool import EnginePool
from pagecli.jobs.workers.worker import MODULE

MAX_WORKERS = 1024


def load_pool(job: GenerateJob, console: Console) -> EnginePool:
    """Starts the workers; returns when the first has loaded its model. Raises UsageError, ModelError."""
    assert job.pool is not None
    if job.profile is not None:
        raise UsageError("--profile records one engine, and --workers has several", "leave out one of them")
    if job.pool.workers == "auto":
        count = replicas.default_count(job.engine)
    elif re.fullmatch(r"\d{1,4}", job.pool.workers) and 1 <= int(job.pool.workers) <= MAX_WORKERS:
        count = int(job.pool.workers)
    else:
        raise UsageError(f"--workers is {job.pool.workers!r}", f"give a number from 1 to {MAX_WORKERS}, or auto")
    check_fits(job.engine, count)
    config = replicas.config_of_each(job.engine, loaded_model.resolve(job.engine), count)
    places = placement.placement(count)
    console.detail(f"starting {count} workers, each with {config}")
    pool = EnginePool(config, count, lambda number: ChildProcess(MODULE, cpus=places[number]), job.pool.timeout)
    try:
        check_chat(job, pool.tokenizer)
    except BaseException:
        pool.close()
        raise
    return pool
