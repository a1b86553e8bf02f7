"""Any use of the scheduler: requests of every kind added, stepped, aborted and preempted at random, on checked memory."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from nightly import share
from simulated_machine import SimulatedMachine, make_request, texts

from pagecli.engine.request import Request

KINDS = ({}, {"n": 2}, {"n": 3}, {"best_of": 2}, {"beam_width": 2}, {"beam_width": 3, "n": 3, "early_stopping": "never"})
NUM_OPERATIONS = Counter()


def alone(request):
    """The same request with the memory to itself."""
    twin = Request(request.request_id, request.prompt_token_ids, request.params, row_key=request.request_id)
    SimulatedMachine(100, 4, 64, 400, prefix_caching=False).run_all([twin])
    return twin


class RequestsOfAnyKind(RuleBasedStateMachine):
    """A machine of any size and requests of every kind added to it; `make_machine` says which machine."""

    @initialize(
        block_size=st.integers(1, 5), spare=st.integers(0, 12), swap_blocks=st.sampled_from([0, 6, 60]), caching=st.booleans()
    )
    def make(self, block_size, spare, swap_blocks, caching):
        self.machine = self.make_machine(block_size, spare, swap_blocks, caching)
        self.unfinished: dict[int, object] = {}
        self.next_id = 0

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=12),
        max_tokens=st.integers(1, 6),
        kind=st.sampled_from(KINDS),
        ignore_eos=st.booleans(),
    )
    def add(self, prompt, max_tokens, kind, ignore_eos):
        request = make_request(self.next_id, prompt, max_tokens=max_tokens, ignore_eos=ignore_eos, **kind)
        self.next_id += 1
        self.unfinished[request.request_id] = request
        self.machine.add(request)
        self.counted()

    def counted(self):
        """Called after every operation."""
        NUM_OPERATIONS["done"] += 1
        self.machine.kv.check_integrity()


class AnyUseOfTheScheduler(RequestsOfAnyKind):
    """The pool holds the largest request that is ever made: 12 prompt and 6 output tokens in three sequences."""

    def make_machine(self, block_size, spare, swap_blocks, caching):
        return SimulatedMachine(3 * -(-17 // block_size) + spare, block_size, 6, 10, swap_blocks, caching)

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps):
        for _ in range(num_steps):
            if self.unfinished:
                plan, finished = self.machine.step()
                assert plan.chunks, "a step without work while requests wait"
                for request in finished:
                    del self.unfinished[request.request_id]
                    assert texts([request]) == texts([alone(request)])
            self.counted()

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def abort(self, data):
        request = self.unfinished.pop(data.draw(st.sampled_from(sorted(self.unfinished))))
        self.machine.scheduler.abort(request)
        assert not any(self.machine.kv.has_table(s.seq_id) for s in request.live)
        self.counted()

    @precondition(lambda self: self.machine.scheduler._running)
    @rule(num_requests=st.integers(1, 3))
    def preempt(self, num_requests):
        """As when blocks run out: the youngest first. What is to be moved is moved by the next step."""
        running = self.machine.scheduler._running
        for _ in range(min(num_requests, len(running))):
            self.machine.scheduler._preempt(running.pop())
        self.counted()

    def teardown(self):
        if hasattr(self, "machine"):
            while self.unfinished:
                self.step(1)
            assert self.machine.kv.num_used_blocks == self.machine.kv.swap_pool.num_used == 0
            assert self.machine.scheduler.num_running == self.machine.scheduler.num_waiting == 0


SETTINGS = settings(deadline=None, stateful_step_count=30, suppress_health_check=list(HealthCheck))


def test_any_use_of_the_scheduler():
    NUM_OPERATIONS.clear()
    run_state_machine_as_test(AnyUseOfTheScheduler, settings=settings(SETTINGS, max_examples=20))
    assert NUM_OPERATIONS["done"] > 100  # the machine asserts the rest after each of them


@pytest.mark.slow
def test_any_use_of_the_scheduler_for_thousands_of_operations():
    NUM_OPERATIONS.clear()
    run_state_machine_as_test(AnyUseOfTheScheduler, settings=settings(SETTINGS, max_examples=share(500)))
    assert NUM_OPERATIONS["done"] >= share(10_000)
