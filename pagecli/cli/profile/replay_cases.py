"""From --policies to the cases of a replay: paged, reserve-max/static, ..., the batching continuous unless it is named."""

import difflib
from collections.abc import Sequence
from typing import get_args

from pagecli.core.engine_config import KV_POLICIES, Batching
from pagecli.errors import UsageError
from pagecli.profiler.replay.replay import DEFAULT_CASES, PAGED_CASE, SHARING_CASE
from pagecli.profiler.replay.replay_clock import ReplayCase
from pagecli.profiler.workloads.workloads import Workload

BATCHINGS: tuple[Batching, ...] = get_args(Batching)


def replay_cases(policies: str | None, workload: Workload, compare: bool) -> Sequence[ReplayCase]:
    """Those named; else paging, with the paper's others to `compare`, and prefix sharing where prompts have prefixes.

    Raises UsageError.
    """
    if policies is None:
        cases = DEFAULT_CASES if compare else (PAGED_CASE,)
        return (*cases, SHARING_CASE) if workload.prefix_block_size else cases
    return list(dict.fromkeys(_case(word.strip().lower()) for word in policies.split(",")))


def _case(word: str) -> ReplayCase:
    policy, _, batching = word.partition("/")
    if policy == "paged-prefix" and batching in ("", "continuous"):
        return SHARING_CASE
    named = next((known for known in KV_POLICIES if known == policy), None)
    if named is None:
        close = difflib.get_close_matches(policy, KV_POLICIES, n=2)
        known = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(KV_POLICIES)}, paged-prefix"
        raise UsageError(f"--policies: no policy {policy!r}", known)
    how = next((known for known in BATCHINGS if known == (batching or "continuous")), None)
    if how is None:
        raise UsageError(f"--policies: no batching {batching!r}", f"after the slash: {', '.join(BATCHINGS)}")
    return ReplayCase(named, how)
