"""The replay: the same steps, times and slots however many steps are taken at once, and the paper's policies in its order."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.roofline import StepTime
from pagecli.profiler.recording.records import PolicyResult
from pagecli.profiler.replay.replay import DEFAULT_CASES, SHARING_CASE, Arrivals, replay, replay_case, result, sample_of
from pagecli.profiler.replay.replay_clock import ReplayCase, ReplayClock, ReplaySettings
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest, built_in

CASES = [
    ReplayCase(policy, batching)
    for policy in ("paged", "reserve-max", "reserve-pow2", "reserve-oracle")
    for batching in ("continuous", "static", "none")
]


class Timer:
    """A step takes a tenth of a second, more for what it computes and reads."""

    def seconds(self, num_tokens, num_sequences, context_tokens, attention_pairs):
        return np.maximum(0.1, 0.01 * num_tokens) + 1e-4 * context_tokens + 1e-5 * attention_pairs + 1e-3 * num_sequences


def run(clock_type, workload, case, limits):
    """Everything that a replay adds up, and its clock."""
    clock = clock_type(case, limits, Timer())
    arrivals = Arrivals(workload, case).that_fit(clock)
    clock.run(arrivals)
    clock.scheduler.kv.check_integrity()
    assert clock.scheduler.kv.num_used_blocks == 0
    return clock.total, clock.steady, clock.seconds, clock.num_finished, clock.scheduler.preemptions, len(arrivals)


lengths = st.tuples(st.integers(1, 20), st.integers(1, 24), st.floats(0, 8))
some_requests = st.lists(lengths, min_size=1, max_size=16)
some_limits = st.builds(
    ReplaySettings,
    num_slots=st.integers(30, 160),
    reserved_len=st.integers(8, 48),
    block_size=st.integers(1, 7),
    max_num_seqs=st.integers(1, 9),
    max_batch_tokens=st.integers(9, 40),
)


def workload_of(requests, at_once=False, **more):
    requests = sorted(requests, key=lambda r: r[2])
    return Workload("test", tuple(WorkloadRequest(p, o, None if at_once else t) for p, o, t in requests), **more)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.policy} {case.batching}")
@settings(deadline=None, max_examples=12)
@given(requests=some_requests, limits=some_limits, at_once=st.booleans())
def test_steps_taken_at_once_come_to_the_same_as_steps_taken_one_by_one(case, requests, limits, at_once):
    workload = workload_of(requests, at_once)
    one_by_one = run(ReplayClock, workload, case, dataclasses.replace(limits, fast_forward=False))
    assert run(ReplayClock, workload, case, limits) == one_by_one


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.policy} {case.batching}")
@settings(deadline=None, max_examples=30)
@given(requests=st.lists(lengths, min_size=20, max_size=60), limits=some_limits, at_once=st.booleans())
def test_longer_workloads_come_to_the_same(case, requests, limits, at_once):
    workload = workload_of(requests, at_once)
    one_by_one = run(ReplayClock, workload, case, dataclasses.replace(limits, fast_forward=False))
    assert run(ReplayClock, workload, case, limits) == one_by_one


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(requests=some_requests, limits=some_limits, shared=st.lists(st.integers(0, 3), max_size=3))
def test_steps_taken_at_once_with_shared_prefixes(requests, limits, shared):
    """Prompts begin with up to three blocks of four tokens in common."""
    made = [
        WorkloadRequest(4 * len(shared) + p, o, t, tuple(hash(tuple(shared[: i + 1])) for i in range(len(shared))))
        for p, o, t in sorted(requests, key=lambda r: r[2])
    ]
    workload = Workload("test", tuple(made), prefix_block_size=4)
    one_by_one = run(ReplayClock, workload, SHARING_CASE, dataclasses.replace(limits, fast_forward=False))
    assert run(ReplayClock, workload, SHARING_CASE, limits) == one_by_one


def test_steps_taken_at_once_stop_before_a_preemption():
    workload = workload_of([(5 + i % 7, 20 + i % 11, 0.7 * i) for i in range(60)])
    limits = ReplaySettings(96, block_size=4, max_num_seqs=16, max_batch_tokens=24)
    one_by_one = run(ReplayClock, workload, ReplayCase("paged"), dataclasses.replace(limits, fast_forward=False))
    assert one_by_one[4].count > 20
    assert run(ReplayClock, workload, ReplayCase("paged"), limits) == one_by_one


def test_a_request_alone_by_hand():
    """3 prompt and 4 output tokens in blocks of 4: 4 steps with 3, 4, 5 and 6 slots filled of 12."""
    clock = ReplayClock(ReplayCase("paged"), ReplaySettings(12, block_size=4, max_batch_tokens=256), Timer())
    clock.run(Arrivals(workload_of([(3, 4, 0.0)]), clock.case).that_fit(clock))
    total = clock.total
    assert (total.steps, total.sequence_steps, total.output_tokens) == (4, 4, 4)
    assert total.filled == 3 + 4 + 5 + 6
    assert total.held == 4 + 4 + 8 + 8
    assert total.never_filled == 2 + 2, "the second block ends two slots past the sequence"
    shares = total.shares(12)
    assert [shares.token_states, shares.reservation, shares.internal_fragmentation] == pytest.approx(
        [100 * 18 / 48, 100 * 2 / 48, 100 * 4 / 48]
    )


def test_a_reservation_by_hand():
    """The same request holds 10 of 12 slots from start to end; the run of 16 it is rounded to does not fit, one of 8 does."""
    limits = ReplaySettings(12, reserved_len=8)
    clock = ReplayClock(ReplayCase("reserve-max"), limits, Timer())
    clock.run(Arrivals(workload_of([(3, 4, 0.0)]), clock.case).that_fit(clock))
    total = clock.total
    assert (total.filled, total.held, total.never_filled) == (18, 4 * 8, 4 * 2)


def test_requests_that_can_never_run_are_left_out_and_counted():
    workload = workload_of([(3, 4, 0.0), (30, 40, 0.0)])
    done = replay_case(workload, ReplaySettings(32, reserved_len=16), Timer(), ReplayCase("paged"))
    assert (done.num_requests, done.details["num_refused"]) == (1, 1)


def shares_of(done: PolicyResult):
    s = done.shares
    return [s.token_states, s.reservation, s.internal_fragmentation, s.external_fragmentation]


@pytest.fixture(scope="module")
def papers():
    """The paper's setting, all requests there from the start: 15,728 slots, ShareGPT's lengths, OPT-13B on one A100-40GB."""
    timer = StepTime(resolve_model("opt-13b", "dummy").config, find_gpu("a100-40gb"))
    return {(r.policy, r.batching): r for r in replay(built_in("sharegpt", 400), ReplaySettings(15_728), timer)}


@pytest.mark.slow
def test_shares_sum_to_100(papers):
    for done in papers.values():
        assert sum(shares_of(done)) + done.shares.free == pytest.approx(100, abs=1e-9)
        assert all(share >= 0 for share in (*shares_of(done), done.shares.free))


@pytest.mark.slow
def test_policies_come_in_the_papers_order_and_near_its_figures(papers):
    orca = [papers[policy, "continuous"] for policy in ("reserve-max", "reserve-pow2", "reserve-oracle")]
    figures = [(20.4, 13.3, 57.3, 8.9), (26.8, 17.9, 13.6, 41.6), (38.2, 25.2, 0, 36.6)]
    for done, paper in zip(orca, figures, strict=True):
        assert shares_of(done) == pytest.approx(paper, abs=7)
    paged = papers["paged", "continuous"]
    tokens = [done.shares.token_states for done in (*orca, paged)]
    assert tokens == sorted(tokens)
    assert paged.shares.token_states >= 96.3
    batches = [done.mean_batch for done in (*orca, paged)]
    assert batches == pytest.approx([7.0, 9.81, 13.62, 30.42], rel=0.2)


def test_older_ways_of_batching_are_slower(papers):
    speeds = [papers[case.policy, case.batching].output_tokens_per_second for case in DEFAULT_CASES]
    assert speeds == sorted(speeds)
    assert papers["reserve-max", "none"].mean_batch == 1


def test_a_sample_of_a_long_workload_is_spread_over_it_or_begins_it():
    at_once = workload_of([(1 + i, 1, 0.0) for i in range(1000)], at_once=True)
    assert [one.prompt_tokens for one in sample_of(at_once, 4).requests] == [1, 251, 501, 751]
    arriving = workload_of([(1 + i, 1, float(i)) for i in range(1000)])
    assert sample_of(arriving, 4).requests == arriving.requests[:4], "at the rate at which they come"
    assert sample_of(arriving, 1000) is arriving


@pytest.mark.slow
def test_a_sample_comes_to_what_the_whole_comes_to():
    timer = StepTime(resolve_model("opt-13b", "dummy").config, find_gpu("a100-40gb"))
    cases = [ReplayCase("reserve-max"), ReplayCase("reserve-oracle"), ReplayCase("paged")]
    whole = built_in("sharegpt", 1200)
    for one, other in zip(
        *(replay(w, ReplaySettings(15_728), timer, cases) for w in (whole, sample_of(whole, 300))), strict=True
    ):
        assert shares_of(other) == pytest.approx(shares_of(one), abs=3)
        assert other.mean_batch == pytest.approx(one.mean_batch, rel=0.1)


@settings(deadline=None, max_examples=30)
@given(requests=some_requests, limits=some_limits, case=st.sampled_from(CASES), at_once=st.booleans())
def test_only_contiguous_memory_that_keeps_requests_waiting_is_external_fragmentation(requests, limits, case, at_once):
    done = replay_case(workload_of(requests, at_once), limits, Timer(), case)
    s = done.shares
    assert sum(shares_of(done)) + s.free == pytest.approx(100)
    if case.policy == "paged":
        assert s.external_fragmentation == 0
    if case.batching == "none" and done.num_requests:
        assert s.free > 0 or s.token_states + s.reservation + s.internal_fragmentation + s.external_fragmentation > 99


def test_memory_that_no_request_asks_for_is_free_under_every_policy():
    """Two short requests in a large cache: no request waits, so only the rounding of a run of 6 is lost."""
    for policy, lost in (("paged", 0), ("reserve-oracle", 2)):
        done = replay_case(workload_of([(4, 3, 0.0)] * 2, at_once=True), ReplaySettings(1024), Timer(), ReplayCase(policy))
        assert done.shares.external_fragmentation == pytest.approx(100 * 2 * lost / 1024)
        assert done.shares.free > 95


def test_prefixes_are_shared_where_the_workload_knows_them():
    requests = tuple(WorkloadRequest(40, 10, None, (1, 2)) for _ in range(12))
    workload = Workload("test", requests, prefix_block_size=16)
    *_, plain, sharing = replay(workload, ReplaySettings(400, reserved_len=64), Timer())
    assert (plain.prefix_caching, sharing.prefix_caching) == (False, True)
    assert sharing.details["prefill_tokens_cached"] == 11 * 32
    assert sharing.mean_batch > plain.mean_batch


def test_the_whole_run_counts_where_there_is_no_steady_part():
    clock = ReplayClock(ReplayCase("paged"), ReplaySettings(640), Timer())
    clock.run(Arrivals(workload_of([(3, 4, 0.0)]), clock.case).that_fit(clock))
    assert result(clock, 1).details["steady_steps"] == 4
