"""The one line of advice: when each rule applies, when it does not, and the number it names."""

from dataclasses import replace

import pytest
from made_recordings import policy_result, policy_results, recording, steps

from pagecli.profiler.report.advice import advice


def said(*made, results=None, **metadata) -> str | None:
    return advice(results, recording(*made, **metadata))


def test_a_run_without_a_cause_gets_no_advice():
    assert said(steps(100)) is None


def test_a_run_of_a_few_steps_gets_no_advice():
    assert said(steps(19, num_waiting=5, blocks_used=1000)) is None


def test_no_run_and_no_replay_give_no_advice():
    assert advice(None, None) is None
    assert advice([], None) is None


def test_requests_that_wait_beside_a_full_pool():
    line = said(steps(100, blocks_used=lambda i: 950 if i < 60 else 600, num_waiting=10))
    assert "KV memory was the limit: for 60% of the time" in line
    assert "--kv-memory" in line
    assert said(steps(100, blocks_used=lambda i: 950 if i < 20 else 600, num_waiting=10)) is None
    assert said(steps(100, blocks_used=950, num_waiting=0)) is None


def test_preemptions():
    assert "2 preemptions" in said(steps(100, num_preemptions=lambda i: int(i in (3, 50))))
    made = recording(steps(100, num_preemptions=lambda i: int(i == 3)))
    made.totals["num_requests"] = 1000
    assert advice(None, made) is None


def test_preemptions_are_counted_over_all_steps_where_only_some_were_kept():
    made = recording(steps(100))
    made.totals["num_preemptions"] = 70
    assert "70 preemptions" in advice(None, made)


def test_a_full_batch_beside_idle_blocks():
    line = said(steps(100, num_running=64, num_waiting=9, blocks_used=200), max_num_seqs=64)
    assert "--max-num-seqs 64 was the limit: for 100% of the time" in line
    assert "at most 20% of the KV blocks" in line
    assert "about --max-num-seqs 256 fits" in line


@pytest.mark.parametrize(
    "change",
    [{"num_waiting": 0}, {"blocks_used": 510}, {"num_running": lambda i: 64 if i < 49 else 40}],
    ids=lambda change: next(iter(change)),
)
def test_a_batch_that_nothing_held_back_is_left_alone(change):
    line = said(steps(100, **{"num_running": 64, "num_waiting": 9, "blocks_used": 260, **change}), max_num_seqs=64)
    assert line is None


def test_time_between_the_steps():
    assert "33% of the time went to reading and writing" in said(steps(100, outside_seconds=0.01))
    assert said(steps(100, outside_seconds=0.004)) is None


def test_a_tail_of_few_sequences():
    line = said(steps(100, num_running=lambda i: 32 if i < 70 else 5))
    assert "last 30% of the time at most 5 of 32 sequences" in line
    assert said(steps(100, num_running=lambda i: 32 if i < 90 else 5)) is None
    assert said(steps(100, num_running=lambda i: 4 if i < 70 else 1)) is None
    assert said(steps(100, num_running=lambda i: 32 if i < 70 else 5, num_waiting=lambda i: int(i == 99))) is None


def test_large_blocks_with_empty_ends():
    line = said(steps(100, slots_filled=int(600 * 64 * 0.8)), block_size=64)
    assert "blocks of 64 left 20% of their slots empty" in line
    assert "--block-size 16 would leave about 5%" in line
    assert said(steps(100, slots_filled=int(600 * 64 * 0.95)), block_size=64) is None
    assert said(steps(100, slots_filled=int(600 * 16 * 0.8)), block_size=16) is None


def test_a_pool_that_is_never_used():
    line = said(steps(100, blocks_used=90), kv_bytes_per_token=46080)
    assert line.startswith("at most 9% of the KV blocks were in use")
    assert "--kv-memory 71MiB is enough" in line  # 90 blocks of 16 slots of 46,080 bytes, a tenth more
    assert "--kv-memory" not in said(steps(100, blocks_used=90))
    assert said(steps(100, blocks_used=300), kv_bytes_per_token=46080) is None


def test_what_held_a_run_back_is_said_before_what_was_wasted():
    line = said(steps(100, blocks_used=1000, num_waiting=5, slots_filled=1000, outside_seconds=0.1), block_size=64)
    assert line.startswith("KV memory was the limit")


def test_prompts_that_begin_alike():
    with_sharing = policy_result(prefix_caching=True, output_tokens_per_second=1800.0)
    assert "1.20 times" in advice([policy_result(), with_sharing], None)
    assert advice([policy_result(), replace(with_sharing, output_tokens_per_second=1530.0)], None) is None
    assert advice([policy_result(), replace(with_sharing, block_size=32)], None) is None


def test_a_replay_that_preempts():
    assert "25 preemptions in 1,000 requests (2.5%)" in advice([policy_result(num_preemptions=25)], None)
    assert advice([policy_result(num_preemptions=5)], None) is None


def test_a_replay_with_large_blocks():
    shares = replace(policy_result().shares, token_states=85.0, internal_fragmentation=14.0)
    assert "blocks of 128 lose 14 %" in advice([policy_result(block_size=128, shares=shares)], None)
    assert advice([policy_result(block_size=16, shares=shares)], None) is None


def test_advice_is_one_line_and_a_replay_of_the_papers_policies_needs_none():
    assert advice(policy_results(), None) is None
    assert "\n" not in said(steps(100, outside_seconds=0.01))
