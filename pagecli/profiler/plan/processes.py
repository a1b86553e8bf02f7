"""A plan's memory and time by process: ranks that share the model, workers that share the rows (docs/distributed.md).

Every rank has its shard of the split matrices, the whole of embeddings and norms, and its heads' part of every KV block.
Workers have a model each; together they finish rows as many times as fast, until the driver, which reads, tokenizes, journals
and writes, has no time left.
"""

from dataclasses import dataclass, replace

from pagecli.devices.memory import bytes_of_rank
from pagecli.errors import UsageError
from pagecli.model.shards import check_divides
from pagecli.profiler.plan.estimate import Estimate
from pagecli.profiler.plan.plan import Plan

DRIVER_SECONDS = 187e-6  # of its CPU a row, measured (benchmarks/distributed.py)


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes of `num_processes` processes together."""

    name: str
    num_processes: int
    weights_bytes: int
    kv_bytes: int
    step_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """`memory`: of the largest rank, of a worker, of all. Speeds are the estimate's; None where the plan does not fit."""

    num_workers: int
    num_ranks: int
    memory: tuple[ProcessMemory, ...]
    output_tokens_per_second: float | None
    rows_per_second: float | None
    bound_by_driver: bool


def check_ranks(plan: Plan, num_ranks: int) -> None:
    """Raises UsageError if so many ranks cannot share the model."""
    settings = plan.settings
    check_divides(settings.config, num_ranks, settings.dtype, "--tensor-parallel-size")


def plan_processes(plan: Plan, estimate: Estimate | None, num_requests: int, num_ranks: int, num_workers: int) -> ProcessPlan:
    """The plan of one worker, divided over its ranks and multiplied. Raises UsageError."""
    check_ranks(plan, num_ranks)
    settings = plan.settings
    weights = [bytes_of_rank(settings.config, plan.weights_bytes, rank, num_ranks) for rank in range(num_ranks)]
    heads = max(1, settings.config.num_kv_heads // num_ranks)
    rank_token_bytes = replace(settings, config=replace(settings.config, num_kv_heads=heads)).kv_bytes_per_token
    kv, step = plan.kv_slots * rank_token_bytes, plan.step_bytes // num_ranks
    memory = (
        ProcessMemory("each rank", 1, max(weights), kv, step),
        ProcessMemory("each worker", num_ranks, sum(weights), num_ranks * kv, plan.step_bytes),
        ProcessMemory(
            "in all",
            num_ranks * num_workers,
            sum(weights) * num_workers,
            num_ranks * kv * num_workers,
            plan.step_bytes * num_workers,
        ),
    )
    if estimate is None:
        return ProcessPlan(num_workers, num_ranks, memory, None, None, False)
    rows = num_workers * num_requests / estimate.seconds
    share = min(1.0, 1 / DRIVER_SECONDS / rows)
    speed = num_workers * estimate.output_tokens_per_second * share
    return ProcessPlan(num_workers, num_ranks, memory, speed, rows * share, share < 1.0)


def check_count(flag: str, count: int, other_flag: str, other: int | None) -> None:
    """Raises UsageError where two flags say different numbers of the same thing."""
    if other is not None and other != count:
        raise UsageError(f"{flag} {count} and {other_flag} {other} differ", f"leave out {other_flag}")
