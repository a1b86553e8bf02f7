"""What block sizes waste and what sharing saves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.errors import UsageError
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.roofline import StepTime
from pagecli.profiler.replay.last_block_waste import parse_block_sizes, waste_by_block_size, wasted_share
from pagecli.profiler.replay.replay import Arrivals
from pagecli.profiler.replay.replay_clock import ReplayCase, ReplayClock, ReplaySettings
from pagecli.profiler.replay.sharing import sharing
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest, built_in


def timer():
    return StepTime(resolve_model("opt-13b", "dummy").config, find_gpu("a100-40gb"))


def test_waste_by_hand():
    """3 prompt and 4 output tokens in blocks of 4: 3, 4, 5, 6 slots filled of 4, 4, 8, 8."""
    assert wasted_share([WorkloadRequest(3, 4)], 4) == pytest.approx(1 - 18 / 24)


@pytest.mark.slow
@given(
    requests=st.lists(st.builds(WorkloadRequest, st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=8),
    size=st.integers(1, 20),
)
def test_the_arithmetic_is_what_a_replay_of_one_after_the_other_counts(requests, size):
    clock = ReplayClock(ReplayCase("paged", "none"), ReplaySettings(200 * size, block_size=size), timer())
    clock.run(Arrivals(Workload("test", tuple(requests)), clock.case).that_fit(clock))
    assert 1 - clock.total.filled / clock.total.held == pytest.approx(wasted_share(requests, size))


def test_blocks_of_one_waste_nothing_and_larger_ones_more_most_on_short_texts():
    waste = {}
    for name in ("sharegpt", "alpaca"):
        waste[name] = [one.wasted_percent for one in waste_by_block_size(built_in(name, 300), (1, 8, 16, 32, 64, 128, 256))]
        assert waste[name][0] == 0
        assert waste[name] == sorted(waste[name])
    assert all(long < short for long, short in zip(waste["sharegpt"][1:], waste["alpaca"][1:], strict=True))


def test_lists_of_block_sizes():
    assert parse_block_sizes("1,8,16,...,256") == (1, 8, 16, 32, 64, 128, 256)
    assert parse_block_sizes("16, 5") == (16, 5)
    for wrong in ("", "0", "8,...", "...,8", "300", "a"):
        with pytest.raises(UsageError, match="is not a block size"):
            parse_block_sizes(wrong)


def test_more_samples_and_beams_save_more_and_beams_most():
    saved = sharing(built_in("alpaca", 6), ReplaySettings(15_728), timer(), widths=(2, 4))
    by_kind = {(one.decoding, one.width): one.saved_percent for one in saved}
    assert 0 < by_kind["samples", 2] < by_kind["samples", 4] < by_kind["beams", 4]
    assert by_kind["beams", 2] < by_kind["beams", 4] < 100 * 3 / 4


def test_samples_save_what_the_prompt_takes():
    """Two samples of 15 + 1 and 8 tokens in blocks of 4: 4 blocks of the prompt are shared, two more each grow."""
    (samples, _) = sharing(Workload("test", (WorkloadRequest(16, 9),)), ReplaySettings(400, block_size=4), timer(), widths=(2,))
    tables = [(4, 4), *[(10, 6)] * 4, *[(12, 8)] * 4]  # entries of both tables, blocks used, in each of 9 steps
    assert samples.saved_percent == pytest.approx(100 * sum(1 - used / entries for entries, used in tables) / 9)
