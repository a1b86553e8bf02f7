"""The scheduler alone: no model, no torch. A counter stands in for the model, so every token says where it came from."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.engine.request import Request
from pagecli.engine.sampling_params import SamplingParams
from pagecli.engine.scheduler import Scheduler
from pagecli.engine.step_plan import SampledToken
from pagecli.engine.stopping import FinishCheck
from pagecli.kv.manager import KVManager

NO_EOS = FinishCheck(frozenset())


def make_scheduler(num_blocks=64, block_size=4, max_num_seqs=8, max_batch_tokens=32):
    return Scheduler(KVManager(num_blocks, block_size), max_num_seqs, max_batch_tokens, NO_EOS)


def make_request(request_id, prompt_len, max_tokens):
    return Request(request_id, list(range(prompt_len)), SamplingParams(max_tokens=max_tokens), row_key=request_id)


def next_token(spec):
    """A "model": the next token is a function of all tokens before it."""
    return SampledToken(hash(tuple(spec.known_token_ids)) % 50_000)


def run_step(scheduler):
    plan = scheduler.plan()
    assert plan.num_tokens <= scheduler.max_batch_tokens
    assert len(plan.chunks) <= scheduler.max_num_seqs
    for chunk in plan.chunks:
        assert len(chunk.block_ids) * scheduler.kv.block_size >= chunk.context_len
    finished = scheduler.commit(plan, [next_token(c.spec) for c in plan.chunks if c.spec is not None])
    scheduler.kv.check_integrity()
    scheduler.release_finished()
    scheduler.kv.check_integrity()
    return plan, finished


def run_all(scheduler, requests, max_steps=20_000):
    for request in requests:
        scheduler.add(request)
    finished = []
    for _ in range(max_steps):
        if not scheduler.num_waiting and not scheduler.num_running:
            return finished
        plan, done = run_step(scheduler)
        assert plan.chunks, "a step without work while requests wait: deadlock"
        finished += done
    raise AssertionError("not finished")


def test_a_long_prompt_is_computed_in_chunks_that_fit_the_step():
    scheduler = make_scheduler(max_batch_tokens=10)
    scheduler.add(make_request(0, prompt_len=25, max_tokens=2))
    lengths = [len(run_step(scheduler)[0].chunks[0].token_ids) for _ in range(4)]
    assert lengths == [10, 10, 5, 1]


def test_only_the_chunk_that_ends_the_known_text_samples():
    scheduler = make_scheduler(max_batch_tokens=10)
    scheduler.add(make_request(0, prompt_len=25, max_tokens=2))
    samples = [run_step(scheduler)[0].chunks[0].spec is not None for _ in range(3)]
    assert samples == [False, False, True]


def test_decodes_run_in_every_step_beside_a_long_prefill():
    scheduler = make_scheduler(num_blocks=200, max_batch_tokens=8)
    scheduler.add(make_request(0, prompt_len=3, max_tokens=30))
    run_step(scheduler)
    scheduler.add(make_request(1, prompt_len=100, max_tokens=1))
    for _ in range(10):
        plan, _ = run_step(scheduler)
        assert len(plan.chunks[0].token_ids) == 1
        assert len(plan.chunks[1].token_ids) == 7


def test_a_newcomer_joins_as_soon_as_a_place_is_free():
    scheduler = make_scheduler(max_num_seqs=2)
    for i, max_tokens in enumerate((2, 10, 10)):
        scheduler.add(make_request(i, prompt_len=2, max_tokens=max_tokens))
    run_step(scheduler)
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    run_step(scheduler)
    run_step(scheduler)
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 0)


def test_when_blocks_run_out_the_youngest_is_preempted_and_finishes_later_with_the_same_tokens():
    requests = [make_request(i, prompt_len=6, max_tokens=20) for i in range(3)]
    tight = make_scheduler(num_blocks=9, block_size=4)
    run_all(tight, requests)
    assert tight.num_preemptions > 0
    roomy = [make_request(i, prompt_len=6, max_tokens=20) for i in range(3)]
    run_all(make_scheduler(num_blocks=1000), roomy)
    assert [r.sequences[0].token_ids for r in requests] == [r.sequences[0].token_ids for r in roomy]


def test_aborted_requests_leave_no_blocks_behind():
    scheduler = make_scheduler(max_num_seqs=1)
    requests = [make_request(i, prompt_len=5, max_tokens=5) for i in range(2)]
    for request in requests:
        scheduler.add(request)
    run_step(scheduler)
    for request in requests:
        scheduler.abort(request)
    assert scheduler.kv.num_used_blocks == 0
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 25)), min_size=1, max_size=14),
    block_size=st.integers(1, 9),
    spare_blocks=st.integers(0, 12),
    max_num_seqs=st.integers(1, 6),
    spare_tokens=st.integers(0, 20),
)
def test_every_job_ends_with_the_same_tokens_in_any_pool_that_holds_its_longest_request(
    lengths, block_size, spare_blocks, max_num_seqs, spare_tokens
):
    smallest = max(-(-(p + m - 1) // block_size) for p, m in lengths)
    scheduler = make_scheduler(smallest + spare_blocks, block_size, max_num_seqs, max_num_seqs + spare_tokens)
    requests = [make_request(i, p, m) for i, (p, m) in enumerate(lengths)]
    finished = run_all(scheduler, requests)
    assert sorted(r.request_id for r in finished) == list(range(len(lengths)))
    assert scheduler.kv.num_used_blocks == 0
    alone = [make_request(i, p, m) for i, (p, m) in enumerate(lengths)]
    run_all(make_scheduler(num_blocks=2000, max_num_seqs=1, max_batch_tokens=100), alone)
    assert [r.sequences[0].token_ids for r in requests] == [r.sequences[0].token_ids for r in alone]
