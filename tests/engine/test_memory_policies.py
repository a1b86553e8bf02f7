"""Other memory policies and ways of batching: the same tokens, on memory divided as older systems divided it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_machine import SimulatedMachine, make_request, texts

from pagecli.core.engine_config import KV_POLICIES
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.request import Admission
from pagecli.engine.scheduling.reservations import num_reserved_slots
from pagecli.errors import ErrorCode, RowError

RESERVING = KV_POLICIES[1:]
KINDS = ({}, {"n": 2}, {"n": 3}, {"best_of": 2})


@pytest.mark.parametrize(
    ("policy", "slots"), [("reserve-max", 2048), ("reserve-pow2", 100 + 32), ("reserve-oracle", 100 + 25 - 1)]
)
def test_a_reservation_is_the_papers(policy, slots):
    assert num_reserved_slots(policy, 100, 25, 2048) == slots


def test_no_reservation_is_longer_than_the_model_or_shorter_than_what_is_needed():
    assert num_reserved_slots("reserve-pow2", 1000, 600, 1800) == 1800
    assert num_reserved_slots("reserve-max", 1000, 600, 100) == 1599


def test_with_reservations_a_newcomer_waits_for_a_run_and_no_request_is_preempted():
    machine = SimulatedMachine(num_blocks=32, block_size=1, kv_policy="reserve-max", max_model_len=16)
    for i in range(3):
        machine.add(make_request(i, [i], max_tokens=4 + 2 * i, ignore_eos=True))
    machine.step()
    assert (machine.scheduler.num_running, machine.scheduler.num_waiting) == (2, 1)
    for _ in range(4):
        machine.step()
    assert (machine.scheduler.num_running, machine.scheduler.num_waiting) == (2, 0)
    assert machine.scheduler.preemptions.count == 0


def test_samples_are_given_their_own_runs_at_the_start_and_copy_the_prompt():
    machine = SimulatedMachine(num_blocks=32, block_size=4, kv_policy="reserve-oracle")
    machine.add(make_request(0, 10, n=3, max_tokens=4, ignore_eos=True))
    machine.step()
    assert machine.kv.num_used_blocks == 3 * 4
    plan, _ = machine.step()
    assert len(plan.moves) == 2 * 3, "two samples copy the three blocks of the prompt"


def test_a_static_batch_keeps_newcomers_out_and_memory_held_until_its_longest_has_ended():
    machine = SimulatedMachine(num_blocks=64, block_size=1, batching="static", kv_policy="reserve-oracle")
    for i, max_tokens in enumerate((2, 5)):
        machine.add(make_request(i, [i, i], max_tokens=max_tokens, ignore_eos=True))
    machine.step()
    machine.add(make_request(2, [2], max_tokens=1, ignore_eos=True))
    held = machine.kv.num_used_blocks
    for _ in range(3):
        machine.step()
        assert machine.kv.num_used_blocks == held
        assert machine.scheduler.num_waiting == 1
    machine.step()
    assert machine.kv.num_used_blocks == 0
    machine.step()
    assert machine.scheduler.num_waiting == 0


def test_a_static_batch_is_all_that_fit_even_where_one_step_does_not_take_their_prompts():
    machine = SimulatedMachine(num_blocks=64, block_size=1, max_batch_tokens=8, batching="static")
    for i in range(3):
        machine.add(make_request(i, 6, max_tokens=2, ignore_eos=True))
    machine.step()
    assert (machine.scheduler.num_running, machine.scheduler.num_waiting) == (3, 0)


def test_without_batching_one_request_runs_at_a_time_with_all_its_samples():
    machine = SimulatedMachine(batching="none")
    for i in range(3):
        machine.add(make_request(i, [i, i], n=1 + i, max_tokens=3, ignore_eos=True))
    widths = []
    while machine.scheduler.num_waiting or machine.scheduler.num_running:
        widths.append(len(machine.step()[0].chunks))
    assert widths == [1, 1, 1, 1, 2, 2, 1, 3, 3]


def test_aborted_requests_of_a_static_batch_free_what_ended_ones_held():
    machine = SimulatedMachine(batching="static", prefix_caching=False)
    requests = [make_request(i, [i], max_tokens=1 + 5 * i, ignore_eos=True) for i in range(2)]
    for request in requests:
        machine.add(request)
    machine.step()
    machine.scheduler.abort(requests[1])
    machine.add(make_request(2, [2], max_tokens=1))
    machine.step()
    assert machine.kv.num_used_blocks == 0


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 9), st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=14
    ),
    block_size=st.integers(1, 5),
    spare=st.integers(0, 100),
    batching=st.sampled_from(["continuous", "static", "none"]),
)
@pytest.mark.parametrize("policy", KV_POLICIES)
def test_tokens_are_the_same_under_every_policy_and_batching(policy, rows, block_size, spare, batching):
    """The pool holds at least three sequences of 32 slots in runs of powers of two."""

    def requests():
        return [
            make_request(i, length, max_tokens=n, ignore_eos=ignore, **kind) for i, (length, n, kind, ignore) in enumerate(rows)
        ]

    expected = requests()
    SimulatedMachine(5000, 4, 200, 2000, prefix_caching=False).run_all(expected)
    machine = SimulatedMachine(4 * 32 + spare, block_size, 5, 12, kv_policy=policy, batching=batching, max_model_len=32)
    found = requests()
    machine.run_all(found)
    assert texts(found) == texts(expected)
    assert machine.kv.num_used_blocks == 0


def admission(num_blocks, policy, max_model_len=64):
    machine = SimulatedMachine(num_blocks, 1, kv_policy=policy, max_model_len=max_model_len)
    return Admission(machine.kv, 1000, max_model_len, 8, machine.scheduler.reservations)


def test_a_request_whose_run_can_never_be_free_is_refused():
    with pytest.raises(RowError, match="kv_policy reserve-max holds 64 consecutive slots") as caught:
        admission(100, "reserve-max").check([1, 2], SamplingParams(max_tokens=4, n=2))
    assert caught.value.code == ErrorCode.KV_TOO_SMALL
    assert admission(100, "reserve-max").check([1, 2], SamplingParams(max_tokens=4)).max_tokens == 4


@pytest.mark.parametrize("policy", RESERVING)
def test_beams_are_refused_where_blocks_cannot_be_shared(policy):
    with pytest.raises(RowError, match="beams share and drop KV blocks") as caught:
        admission(100, policy).check([1, 2], SamplingParams(max_tokens=4, beam_width=2))
    assert caught.value.code == ErrorCode.UNSUPPORTED
