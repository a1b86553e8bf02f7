"""`pagecli.profile_plan`: where a model's memory goes and how many requests fit, as `pagecli profile --json` says it."""

import warnings
from collections.abc import Mapping
from typing import Any


def profile_plan(
    model: str,
    *,
    gpu: str = "auto",
    num_gpus: int | None = None,
    lora: Mapping[str, str] | str | list[str] | None = None,
    merge_lora: str | None = None,
    dtype: str = "auto",
    quantization: str = "auto",
    kv_dtype: str = "auto",
    kv_memory: str = "auto",
    block_size: int = 16,
    max_num_seqs: int | None = None,
    max_batch_tokens: int | None = None,
    workload: str = "sharegpt",
    num_requests: int | None = None,
    max_tokens: int = 256,
) -> dict[str, Any]:
    """The plan, without weights, GPU or network: a dict with `model`, `workload` and `plan` (docs: pagecli profile).

    Raises PagecliError: UsageError (unknown GPU or workload), InputError, ModelError.
    """
    from pagecli.api.settings import as_flags
    from pagecli.cli.profile.command import plan_section
    from pagecli.cli.profile.options import ProfileOptions
    from pagecli.cli.profile.plan import checked_by, plan_job
    from pagecli.cli.profile.workload import load_workload
    from pagecli.model.registry import resolve_model
    from pagecli.model.stored_tensors import stored_tensors

    options = ProfileOptions(
        model=model,
        gpu=gpu,
        num_gpus=num_gpus,
        **as_flags({"lora": lora}),
        merge_lora=merge_lora,
        dtype=dtype,  # type: ignore[arg-type]
        quantization=quantization,  # type: ignore[arg-type]
        kv_dtype=kv_dtype,  # type: ignore[arg-type]
        kv_memory=kv_memory,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_batch_tokens=max_batch_tokens,
        workload=workload,
        num_requests=num_requests,
        max_tokens=max_tokens,
    )
    source = resolve_model(model, "dummy")
    loaded = load_workload(workload, model, num_requests, None, max_tokens)
    checked = checked_by(source, stored_tensors(model), warnings.warn)
    return dict(plan_section(plan_job(options, source, loaded, checked), options).fields)
