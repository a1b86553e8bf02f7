"""`pagecli.profile_plan`: where a model's memory goes and how many requests fit, as `pagecli profile --json` says it."""

import os
import warnings
from typing import Any, Unpack

from pagecli.api.settings import PlanSettings, checked, model_name, options_of


def profile_plan(model: str | os.PathLike[str], **settings: Unpack[PlanSettings]) -> dict[str, Any]:
    """The plan, without weights, GPU or network: a dict with `model`, `workload` and `plan` (docs: pagecli profile).

    `settings`: flags of `pagecli profile` with underscores. Raises PagecliError: UsageError (unknown GPU or workload, a value
    that a setting does not take), InputError, ModelError; TypeError for a setting that does not exist.
    """
    from pagecli.cli.profile.command import plan_section
    from pagecli.cli.profile.options import ProfileOptions
    from pagecli.cli.profile.plan import checked_by, plan_job
    from pagecli.cli.profile.workload import load_workload
    from pagecli.model.registry import resolve_model
    from pagecli.model.stored_tensors import stored_tensors

    given = checked("profile_plan", settings, PlanSettings)
    o = options_of(ProfileOptions, {"model": model_name(model), **given})
    source = resolve_model(o.model, "dummy")
    loaded = load_workload(o.workload, o.model, o.num_requests, None, o.max_tokens)
    job = plan_job(o, source, loaded, checked_by(source, stored_tensors(o.model), warnings.warn))
    return dict(plan_section(job, o).fields)
