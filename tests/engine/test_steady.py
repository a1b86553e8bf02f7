"""Batches that only decode and are planned as one: the same plans, results and memory, in every step, as where each sequence is
planned by itself, whatever else happens to the batch."""

import dataclasses
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from late_machine import LateMachine
from nightly import share
from simulated_machine import SPOILED, SimulatedMachine, make_request

KINDS = (
    *({}, {}, {"n": 2}, {"n": 3, "logprobs": 1}, {"best_of": 3}, {"beam_width": 2}, {"logprobs": 2}),
    *({"seed": SPOILED}, {"seed": SPOILED, "logprobs": 0}, {"seed": SPOILED, "n": 2}),
    *({"stop": ("K", "PQ")}, {"stop_token_ids": (3, 8, 11)}, {"min_tokens": 4}, {"no_repeat_ngram_size": 2}),
)
LONGEST_PROMPT, MOST_TOKENS = 8, 16
NUM_PLANS = Counter()  # of batches that only decode, and of all


class Pair:
    """Two machines that are used alike; the second plans each sequence by itself."""

    def __init__(self, kind, *args, gathers=False, **machine):
        self.both = [kind(*args, **machine) for _ in range(2)]
        self.both[1].scheduler.least_steady = sys.maxsize
        self._requests = {}, {}
        self._names = {}, {}  # of sequences, whose ids no two have in common: the order in which plans name them
        for machine in self.both:
            machine.scheduler.gathers = gathers

    def add(self, request_id, prompt, adapter, params):
        for machine, requests in zip(self.both, self._requests, strict=True):
            requests[request_id] = request = make_request(request_id, prompt, **params)
            request.adapter = adapter
            machine.add(request)

    def each(self, use):
        """use(machine, its requests), of which both give the same."""
        found = [use(*of_one) for of_one in zip(self.both, self._requests, strict=True)]
        seen = [self._seen(*of_one) for of_one in zip(self.both, self._requests, strict=True)]
        assert seen[0] == seen[1]
        return found

    def step(self):
        """The requests that finished."""
        (plan, finished), (other, other_finished) = self.each(lambda machine, _: machine.step())
        assert self.described(0, plan) == self.described(1, other)
        assert [r.request_id for r in finished] == [r.request_id for r in other_finished]
        NUM_PLANS.update({"steady": plan.is_decode, "all": 1})
        assert not other.is_decode
        return [r.request_id for r in finished]

    def described(self, which, plan):
        """A plan without what is the machine's own."""
        names = self._names[which]
        chunks = [
            (names.setdefault(c.seq_id, len(names)), c.token_ids, c.start, list(c.block_ids), spec_fields(c), c.num_repeated)
            for c in plan.chunks
        ]
        asked = [spec for specs in plan.asked for spec in specs]
        assert [spec for chunk in plan.chunks for spec in chunk.specs] == asked
        adapters = list(plan.adapters) or [-1] * len(chunks)
        counts = plan.num_tokens, plan.num_sampled, plan.num_repeated, plan.has_wanted
        return chunks, plan.moves, list(plan.feeds), plan.memory, adapters, counts

    def _seen(self, machine, requests):
        """Everything else that a run depends on."""
        scheduler, kv = machine.scheduler, machine.kv
        of_requests = {
            i: (r.running, r.forked, str(r.failure), *[sequences(group) for group in (r.live, r.done, r.leaving)])
            for i, r in requests.items()
        }
        sizes = scheduler.num_waiting, scheduler.num_running, scheduler.full, len(scheduler.ended), scheduler.is_idle
        return of_requests, sizes, kv.snapshot(), kv.filled_slots(), dataclasses.asdict(scheduler.preemptions)


def spec_fields(chunk):
    names = ("params", "row_key", "sample", "num_prompt_tokens", "forbidden_ids", "num_candidates")
    return [([getattr(spec, name) for name in names], list(spec.known_token_ids)) for spec in chunk.specs]


def sequences(group):
    names = ("sample", "num_computed", "num_lost", "finish_reason")
    return [([getattr(s, name) for name in names], list(s.token_ids), list(s.logprobs)) for s in group]


class AnyUse(RuleBasedStateMachine):
    kind = SimulatedMachine

    @initialize(
        block_size=st.integers(1, 5), spare=st.integers(0, 12), swap_blocks=st.sampled_from([0, 6, 80]), caching=st.booleans(),
        batching=st.sampled_from(["continuous", "continuous", "static", "none"]), most=st.sampled_from([6, 12]),
        policy=st.sampled_from(["paged", "paged", "paged", "reserve-oracle"]), gathers=st.booleans(),
    )  # fmt: skip
    def make(self, block_size, spare, swap_blocks, caching, batching, most, policy, gathers):
        num_blocks = 3 * -(-(LONGEST_PROMPT + MOST_TOKENS) // block_size) + spare
        if policy != "paged":
            num_blocks, swap_blocks, caching = 4 * num_blocks, 0, False
        memory = num_blocks, block_size, most, 14, swap_blocks, caching, policy, batching
        self.pair, self.unfinished, self.next_id, self.policy = Pair(self.kind, *memory, gathers=gathers), [], 0, policy

    @rule(
        prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST_PROMPT), min_size=1, max_size=4),
        max_tokens=st.integers(1, MOST_TOKENS), kind=st.sampled_from(KINDS), ignore_eos=st.booleans(),
        adapter=st.integers(-1, 0),
    )  # fmt: skip
    def add(self, prompts, max_tokens, kind, ignore_eos, adapter):
        if kind.get("beam_width") and self.policy != "paged":
            return
        params = kind | {"max_tokens": max(max_tokens, kind.get("min_tokens", 0)), "ignore_eos": ignore_eos}
        for prompt in prompts:
            self.pair.add(self.next_id, prompt, adapter, params)
            self.unfinished.append(self.next_id)
            self.next_id += 1

    @rule(num_steps=st.integers(1, 12))
    def step(self, num_steps):
        for _ in range(num_steps):
            if self.unfinished:
                for request_id in self.pair.step():
                    self.unfinished.remove(request_id)

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def abort(self, data):
        request_id = data.draw(st.sampled_from(self.unfinished))
        self.unfinished.remove(request_id)
        self.pair.each(lambda machine, requests: machine.scheduler.abort(requests[request_id]))

    @precondition(lambda self: self.policy == "paged")  # no request with reserved memory goes on after a failure
    @rule()
    def fail(self):
        """A step that raises where it runs: all start again."""
        self.pair.each(lambda machine, _: machine.fail())

    def teardown(self):
        if hasattr(self, "pair"):
            for _ in range(30):
                self.step(100)
            assert not self.unfinished
            self.pair.each(lambda machine, _: machine.drain())
            assert all(machine.kv.num_used_blocks == machine.kv.swap_pool.num_used == 0 for machine in self.pair.both)


class AnyUseWithLateResults(AnyUse):
    kind = LateMachine


SETTINGS = settings(deadline=None, stateful_step_count=20, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


def use(kind, max_examples):
    NUM_PLANS.clear()
    run_state_machine_as_test(kind, settings=settings(SETTINGS, max_examples=max_examples))
    assert NUM_PLANS["steady"] > NUM_PLANS["all"] // 10


@pytest.mark.parametrize("kind", [AnyUse, AnyUseWithLateResults])
def test_steps_are_those_of_sequences_planned_one_by_one(kind):
    use(kind, 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AnyUse, AnyUseWithLateResults])
def test_steps_of_any_use_are_those_of_sequences_planned_one_by_one(kind):
    use(kind, share(3000))
