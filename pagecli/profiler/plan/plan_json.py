"""A profile as one JSON object: its fields are documented in docs/guides/profiling.md and change only with `schema_version`."""

from dataclasses import asdict
from typing import Any

from pagecli.model.build_program import build
from pagecli.profiler.plan.estimate import Estimate
from pagecli.profiler.plan.plan import Plan, num_too_long
from pagecli.profiler.recording.records import PolicyResult
from pagecli.profiler.workloads.workloads import Workload

SCHEMA_VERSION = 2


def model_json(plan: Plan) -> dict[str, Any]:
    config = plan.settings.config
    names = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "max_positions")
    described = {"architecture": config.architecture, "num_parameters": build(config).num_parameters}
    return {"name": plan.settings.model, **described, **{name: getattr(config, name) for name in names}}


def workload_json(plan: Plan, workload: Workload) -> dict[str, Any]:
    return {
        "name": workload.name,
        "note": workload.note,
        "num_requests": len(workload.requests),
        "num_too_long": num_too_long(plan, workload),
        "requests_per_second": workload.requests_per_second,
        "prefix_block_size": workload.prefix_block_size or None,
        "prompt_tokens": asdict(workload.prompt_stats),
        "output_tokens": asdict(workload.output_stats),
        "total_tokens": asdict(workload.total_stats),
    }


def plan_json(plan: Plan, estimate: Estimate | None, flags: list[str], note: str) -> dict[str, Any]:
    """Sizes in bytes over all devices together; `estimate` is null where the plan does not fit."""
    settings, device = plan.settings, plan.settings.device
    return {
        "device": {
            "name": device.name,
            "title": device.title,
            "kind": device.kind,
            "count": settings.num_devices,
            "memory_bytes": device.memory_bytes,
            "bandwidth_bytes_per_second": device.bandwidth,
            "flops_per_second": device.flops(settings.dtype_bytes),
            "source": device.source,
            "note": note or None,
        },
        "dtype": settings.dtype,
        "kv_dtype": settings.kv_dtype,
        "block_size": settings.block_size,
        "fits": plan.fits,
        "missing_bytes": plan.missing_bytes,
        "memory_bytes": plan.memory_bytes,
        "memory": [asdict(part) for part in plan.parts],
        "weights_bytes": plan.weights_bytes,
        "weights_are_exact": bool(settings.checked_by),
        "step_bytes": plan.step_bytes,
        "kv_bytes_per_token": settings.kv_bytes_per_token,
        "kv_memory_bytes": plan.kv_memory_bytes,
        "kv_blocks": plan.kv_blocks,
        "kv_slots": plan.kv_slots,
        "concurrency": [asdict(one) for one in plan.concurrency],
        "largest_batch": plan.largest_batch,
        "estimate": None if estimate is None else asdict(estimate),
        "generate_flags": flags,
    }


def policy_json(result: PolicyResult) -> dict[str, Any]:
    """A row of `replay` or `run`: the five shares beside the rest."""
    fields = asdict(result)
    return {**{name: fields[name] for name in ("policy", "batching")}, **fields.pop("shares"), **fields}
