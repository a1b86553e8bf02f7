"""The replay part of `pagecli profile`, as it is printed and as JSON."""

import json
from dataclasses import replace
from io import StringIO

import pytest

from pagecli.cli.profile.options import ProfileOptions
from pagecli.cli.profile.plan import plan_job
from pagecli.cli.profile.replay import block_sizes_section, replay_section, sharing_section
from pagecli.model.registry import resolve_model
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest, built_in

FLAGS = ProfileOptions(model="opt-13b", gpu="a100-40gb", block_sizes="16,64", compare=True)


def job_of(workload, **flags):
    return plan_job(replace(FLAGS, **flags), resolve_model("opt-13b", "dummy"), workload)


def printed(section):
    from rich.console import Console

    console = Console(width=120, record=True, file=StringIO())
    for part in section.shown:
        console.print(part)
    return console.export_text()


def test_paging_is_replayed_alone_unless_others_are_compared_or_a_report_shows_them(tmp_path):
    job = job_of(built_in("sharegpt", 40))
    alone = replay_section(job, replace(FLAGS, compare=False, all=True))
    assert [row["policy"] for row in alone.fields["replay"]] == ["paged"]
    assert "--compare adds" in printed(alone)
    assert "Orca" not in printed(alone)
    assert len(replay_section(job, replace(FLAGS, compare=False, html=tmp_path / "x.html")).fields["replay"]) == 6


@pytest.mark.slow
def test_every_policy_has_a_row_that_sums_to_100():
    section = replay_section(job_of(built_in("sharegpt", 120)), FLAGS)
    rows = json.loads(json.dumps(section.fields["replay"]))
    shares = ("token_states", "reservation", "internal_fragmentation", "external_fragmentation", "free")
    assert all(sum(row[name] for name in shares) == pytest.approx(100, abs=0.1) for row in rows)
    assert [(row["policy"], row["batching"]) for row in rows] == [
        ("reserve-max", "none"),
        ("reserve-max", "static"),
        ("reserve-max", "continuous"),
        ("reserve-pow2", "continuous"),
        ("reserve-oracle", "continuous"),
        ("paged", "continuous"),
    ]
    assert rows[-1]["relative_throughput"] == 1
    assert all(row["relative_throughput"] < 1 and row["mean_batch"] > 0 for row in rows[:-1])


def test_the_papers_figures_stand_beside_ours():
    text = printed(replay_section(job_of(built_in("sharegpt", 60)), FLAGS))
    for figure in ("20.4", "57.3", "41.6", "96.3", "30.42", "Orca (Oracle)"):
        assert figure in text
    assert "132.44" not in text, "mean batches are the workload's own"
    text = printed(replay_section(job_of(built_in("alpaca", 60)), FLAGS))
    assert "132.44" in text
    assert "57.3" not in text, "shares are of longer texts"


def test_a_rate_and_requests_that_never_fit_are_said():
    requests = (*built_in("sharegpt", 30).requests, WorkloadRequest(9000, 9000))
    text = printed(replay_section(job_of(Workload("mixed", requests).with_rate(3.0)), FLAGS))
    assert "3 requests/s" in text
    assert "paged, continuous: 1 requests could never fit" in text


def test_prefixes_are_replayed_shared_and_not():
    requests = tuple(WorkloadRequest(100, 20, None, (1, 2, 3)) for _ in range(40))
    workload = Workload("trace", requests, prefix_block_size=16)
    rows = replay_section(job_of(workload), FLAGS).fields["replay"]
    assert [row["prefix_caching"] for row in rows[-2:]] == [False, True]
    prefixes = sharing_section(job_of(Workload("trace", requests[:6], prefix_block_size=16)), FLAGS).fields["sharing"][
        "prefixes"
    ]
    assert prefixes["cached_percent"] == pytest.approx(100 * 5 * 48 / 600)


def test_block_sizes_are_shown_for_the_workload_and_both_built_in_ones():
    section = block_sizes_section(job_of(Workload("mine", built_in("alpaca", 40).requests)), FLAGS)
    assert {row["workload"] for row in section.fields["block_sizes"]["last_block_waste"]} == {"mine", "sharegpt", "alpaca"}
    assert [row["block_size"] for row in section.fields["block_sizes"]["replay"]] == [16, 64]
    assert "mine" in printed(section)


def test_without_a_cache_there_is_no_replay():
    section = replay_section(job_of(built_in("sharegpt", 10), gpu="t4"), FLAGS)
    assert section.fields == {"replay": []}
    assert "no KV cache" in printed(section)
