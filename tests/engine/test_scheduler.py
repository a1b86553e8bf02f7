"""The scheduler with simulated memory: no model, no torch. Whatever is shared, moved or recomputed, tokens stay the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightly import share
from simulated_machine import SimulatedMachine, make_request, texts

from pagecli.engine.scheduling.batch import by_prefix


def test_a_long_prompt_is_computed_in_chunks_that_fit_the_step():
    machine = SimulatedMachine(max_batch_tokens=10)
    machine.add(make_request(0, 25, max_tokens=2, ignore_eos=True))
    lengths = [len(machine.step()[0].chunks[0].token_ids) for _ in range(4)]
    assert lengths == [10, 10, 5, 1]


def test_only_the_chunk_that_ends_the_known_text_samples():
    machine = SimulatedMachine(max_batch_tokens=10)
    machine.add(make_request(0, 25, max_tokens=2))
    samples = [bool(machine.step()[0].chunks[0].specs) for _ in range(3)]
    assert samples == [False, False, True]


def test_decodes_run_in_every_step_beside_a_long_prefill():
    machine = SimulatedMachine(num_blocks=200, max_batch_tokens=8)
    machine.add(make_request(0, 3, max_tokens=30, ignore_eos=True))
    machine.step()
    machine.add(make_request(1, 100, max_tokens=1))
    for _ in range(10):
        plan, _ = machine.step()
        assert [len(chunk.token_ids) for chunk in plan.chunks] == [1, 7]


def test_a_newcomer_joins_as_soon_as_a_place_is_free():
    machine = SimulatedMachine(max_num_seqs=2)
    for i, max_tokens in enumerate((2, 10, 10)):
        machine.add(make_request(i, [i, i], max_tokens=max_tokens, ignore_eos=True))
    machine.step()
    assert (machine.scheduler.num_running, machine.scheduler.num_waiting) == (2, 1)
    machine.step()
    machine.step()
    assert (machine.scheduler.num_running, machine.scheduler.num_waiting) == (2, 0)


@pytest.mark.parametrize("swap_blocks", [0, 20], ids=["recompute", "swap"])
def test_when_blocks_run_out_the_youngest_is_preempted_and_finishes_later_with_the_same_tokens(swap_blocks):
    def make():
        return [make_request(i, [i] * 6, max_tokens=20, ignore_eos=True) for i in range(3)]

    tight, roomy = SimulatedMachine(num_blocks=9, swap_blocks=swap_blocks), SimulatedMachine(num_blocks=1000)
    preempted, undisturbed = make(), make()
    tight.run_all(preempted)
    roomy.run_all(undisturbed)
    log = tight.scheduler.preemptions
    assert log.count > 0
    assert (log.num_tokens_lost == 0) == (swap_blocks > 0)
    assert (tight.kv.num_swapped_blocks > 0) == (swap_blocks > 0)
    assert set(log.by_request) <= {1, 2}, "the oldest is never preempted"
    assert texts(preempted) == texts(undisturbed)


def test_aborted_requests_leave_no_blocks_behind():
    machine = SimulatedMachine(max_num_seqs=1)
    requests = [make_request(i, [i] * 5, max_tokens=5, ignore_eos=True) for i in range(2)]
    for request in requests:
        machine.add(request)
    machine.step()
    for request in requests:
        machine.scheduler.abort(request)
    assert machine.kv.num_used_blocks == 0
    assert (machine.scheduler.num_running, machine.scheduler.num_waiting) == (0, 0)


def test_samples_share_the_prompts_blocks_and_copy_only_the_last():
    machine = SimulatedMachine(block_size=4)
    machine.add(make_request(0, 10, n=3, max_tokens=4, ignore_eos=True))
    machine.step()
    assert machine.kv.num_used_blocks == 3
    plan, _ = machine.step()
    assert len(plan.chunks) == 3
    assert len(plan.moves) == 2, "two samples copy the half-full block, the last one writes in place"
    assert machine.kv.num_used_blocks == 5
    assert machine.kv.num_table_entries == 9


def test_equal_prompts_arriving_together_compute_their_prefix_once():
    machine = SimulatedMachine(max_batch_tokens=64)
    requests = [make_request(i, 17, max_tokens=3) for i in range(6)]
    for request in requests:
        machine.add(request)
    computed = 0
    while machine.scheduler.num_waiting or machine.scheduler.num_running:
        computed += machine.step()[0].num_tokens
    num_decodes = sum(len(r.done[0].output_token_ids) - 1 for r in requests)
    assert computed == 17 + 5 * 1 + num_decodes


def test_without_prefix_caching_nothing_is_found():
    machine = SimulatedMachine(prefix_caching=False)
    machine.run_all([make_request(i, 17, max_tokens=3) for i in range(4)])
    assert machine.scheduler.num_cached_prompt_tokens == 0


def test_requests_that_share_a_prefix_stand_together_and_others_keep_their_order():
    machine = SimulatedMachine(block_size=2)
    prompts = [[1, 2, 9], [5, 5, 5], [1, 2, 3], [6, 6, 6], [1, 2, 5]]
    requests = [make_request(i, p) for i, p in enumerate(prompts)]
    for request in requests:
        request.prefix_hashes = machine.kv.prompt_hashes(request.prompt_token_ids)
    assert [r.request_id for r in by_prefix(requests)] == [2, 4, 0, 1, 3]


def test_samples_in_a_pool_that_holds_their_prompt_and_nothing_more():
    machine = SimulatedMachine(num_blocks=1, block_size=4, max_num_seqs=4)
    (request,) = machine.run_all([make_request(0, 4, n=4, max_tokens=1, ignore_eos=True)])
    assert len(request.done) == 4


def test_a_group_swapped_out_nearly_as_large_as_the_pool_comes_back():
    machine = SimulatedMachine(num_blocks=12, block_size=2, max_num_seqs=8, swap_blocks=20, prefix_caching=False)
    requests = [make_request(0, [1, 2, 3], max_tokens=8, ignore_eos=True)]
    requests.append(make_request(1, [4], n=4, max_tokens=5, ignore_eos=True))
    machine.run_all(requests)
    assert machine.kv.num_swapped_blocks > 0
    assert set(machine.scheduler.preemptions.by_request) == {1}


def test_beams_preempted_while_some_wait_for_the_others_offer_again():
    machine = SimulatedMachine(num_blocks=40, block_size=4, max_num_seqs=4, max_batch_tokens=4)
    request = make_request(0, 4, beam_width=3, max_tokens=8, ignore_eos=True)
    machine.add(request)
    while not request.forked:
        machine.step()
    machine.step()
    request.beam_search.offer(request.live[1], None)  # the others are still to be computed
    machine.scheduler._running.remove(request)
    machine.scheduler._preempt(request)
    machine.run_all([])
    alone = make_request(0, 4, beam_width=3, max_tokens=8, ignore_eos=True)
    SimulatedMachine().run_all([alone])
    assert texts([request]) == texts([alone])


def test_recomputed_tokens_are_those_computed_before_and_not_found_in_the_cache():
    counts = {}
    for prefix_caching in (False, True):
        machine = SimulatedMachine(num_blocks=9, prefix_caching=prefix_caching)
        for i in range(3):
            machine.add(make_request(i, [i] * 6, max_tokens=20, ignore_eos=True))
        planned = repeated = 0
        while machine.scheduler.num_waiting or machine.scheduler.num_running:
            plan, _ = machine.step()
            planned, repeated = planned + plan.num_tokens, repeated + plan.num_repeated
        assert planned - repeated == 3 * (6 + 19)
        counts[prefix_caching] = repeated
        assert 0 < repeated <= machine.scheduler.preemptions.num_tokens_lost
    assert counts[True] < counts[False]


def test_a_window_that_is_used_up_is_followed_by_the_next_in_the_same_step():
    machine = SimulatedMachine(num_blocks=2000, max_num_seqs=600, max_batch_tokens=600)
    for i in range(520):
        machine.add(make_request(i, [i], max_tokens=1))
    assert len(machine.step()[0].chunks) == 520


kinds = st.sampled_from(
    [
        {},
        {},
        {"n": 2},
        {"n": 3},
        {"n": 1, "best_of": 2},
        {"beam_width": 2},
        {"beam_width": 3, "n": 2, "early_stopping": "never"},
    ]
)
jobs = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 30), st.integers(1, 14), kinds, st.booleans()), min_size=1, max_size=10
)


def make_job(rows):
    """Requests whose prompts begin with one of four texts, so that many share a prefix."""
    requests = []
    for i, (start, length, max_tokens, kind, ignore_eos) in enumerate(rows):
        prompt = [start * 10 + j // 5 for j in range(length)] if start else [i % 3] * length
        requests.append(make_request(i, prompt, max_tokens=max_tokens, ignore_eos=ignore_eos, **kind))
    return requests


def blocks_for_longest(requests, block_size):
    sizes = []
    for r in requests:
        width = r.params.num_sequences
        slots = r.num_prompt_tokens + r.params.max_tokens - 1
        shared = r.num_prompt_tokens // block_size if width > 1 else 0
        sizes.append(shared + width * (-(-slots // block_size) - shared))
    return max(sizes)


any_pool = given(
    rows=jobs,
    block_size=st.integers(1, 6),
    spare_blocks=st.integers(0, 10),
    spare_seqs=st.integers(0, 5),
    spare_tokens=st.integers(0, 20),
    swap_blocks=st.sampled_from([0, 0, 3, 40]),
    prefix_caching=st.booleans(),
)


def check_any_pool(rows, block_size, spare_blocks, spare_seqs, spare_tokens, swap_blocks, prefix_caching):
    requests = make_job(rows)
    num_blocks = blocks_for_longest(requests, block_size) + spare_blocks
    max_num_seqs = max(r.params.num_sequences for r in requests) + spare_seqs
    machine = SimulatedMachine(num_blocks, block_size, max_num_seqs, max_num_seqs + spare_tokens, swap_blocks, prefix_caching)
    finished = machine.run_all(requests)
    assert sorted(r.request_id for r in finished) == list(range(len(rows)))
    assert machine.kv.num_used_blocks == 0
    assert machine.kv.swap_pool.num_used == 0
    assert machine.kv.num_table_entries == 0

    alone = make_job(rows)
    for request in alone:
        SimulatedMachine(100, 4, 64, 400, prefix_caching=False).run_all([request])  # three times what the longest takes
    assert texts(requests) == texts(alone)


@settings(max_examples=30, deadline=None)
@any_pool
def test_every_job_ends_with_the_same_tokens_in_any_pool_that_holds_its_largest_request(**case):
    check_any_pool(**case)


@pytest.mark.slow
@settings(max_examples=share(1500), deadline=None)
@any_pool
def test_so_does_every_job_of_many_more(**case):
    check_any_pool(**case)
