"""--retry: outputs that are no good are run again with other draws; what a row ends with depends on the row alone."""

import dataclasses
import random

import pytest
from fake_engine import FakeStatus
from hypothesis import given
from hypothesis import strategies as st

from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ErrorCode, UsageError
from pagecli.jobs.run.retries import (
    MAX_PERIOD,
    MIN_TIMES,
    MIN_TOKENS,
    RetryingEngine,
    RetryPolicy,
    attempt_key,
    ends_in_loop,
    parse_reasons,
)

SAMPLED = SamplingParams(temperature=1.0)


class DrawingEngine:
    """Every output is drawn by the request's key, and is good in one of three; which requests end in a step is up to `seed`."""

    num_failed_steps = 0

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.requests: dict[int, tuple[SamplingParams, int]] = {}
        self.runs: list[tuple[int, SamplingParams, int]] = []

    def add_request(self, request_id, prompt_token_ids, params, row_key=None):
        assert request_id not in self.requests
        self.requests[request_id] = params, row_key
        self.runs.append((request_id, params, row_key))

    def step(self):
        done = [request_id for request_id in self.requests if self.random.random() < 0.5]
        return [self.output(request_id, *self.requests.pop(request_id)) for request_id in done]

    @staticmethod
    def output(request_id, params, key):
        def sequence(sample):
            draw = random.Random(f"{key} {sample}")
            reason = draw.choice(["stop", "length", "length"])
            return SequenceOutput(sample, [draw.randrange(100)], str(draw.random()), reason)

        return RequestOutput(request_id, 3, tuple(map(sequence, range(params.n))))

    def has_unfinished(self):
        return bool(self.requests)

    def abort(self, request_id):
        del self.requests[request_id]

    def status(self):
        return FakeStatus(len(self.requests), 0)


def run(
    policy: RetryPolicy, rows: list[SamplingParams], seed: int = 0, order=None
) -> tuple[list[RequestOutput], DrawingEngine]:
    inner = DrawingEngine(seed)
    engine, outputs = RetryingEngine(inner, policy), {}
    for index in order or range(len(rows)):
        engine.add_request(index, [1], rows[index], row_key=1000 + index)
    while engine.has_unfinished():
        for output in engine.step():
            assert output.request_id not in outputs
            outputs[output.request_id] = output
    return [outputs[index] for index in range(len(rows))], inner


def test_an_output_is_the_first_good_attempt_and_else_the_last():
    outputs, _ = run(RetryPolicy(3), [SAMPLED] * 40)
    counts = set()
    for index, output in enumerate(outputs):
        tries = [DrawingEngine.output(index, SAMPLED, attempt_key(1000 + index, k)).sequences[0] for k in range(4)]
        good = [k for k, sequence in enumerate(tries) if sequence.finish_reason == "stop"]
        expected = good[0] if good else 3
        assert output.sequences == (dataclasses.replace(tries[expected], attempts=expected + 1),)
        counts.add(expected)
    assert counts == {0, 1, 2, 3}


@pytest.mark.slow
@given(seed=st.integers(0, 999), order=st.permutations(range(12)), n=st.integers(1, 3), retry=st.integers(1, 4))
def test_what_a_row_ends_with_does_not_depend_on_its_batch(seed, order, n, retry):
    rows = [dataclasses.replace(SAMPLED, n=n)] * 12
    expected, _ = run(RetryPolicy(retry), rows)
    assert run(RetryPolicy(retry), rows, seed, order)[0] == expected


def test_good_samples_stay_while_the_others_are_run_again():
    [output], _ = run(RetryPolicy(20), [dataclasses.replace(SAMPLED, n=4)])
    assert [sequence.sample for sequence in output.sequences] == [0, 1, 2, 3]
    assert {sequence.finish_reason for sequence in output.sequences} == {"stop"}
    assert len({sequence.attempts for sequence in output.sequences}) > 1
    for sequence in output.sequences:
        first = DrawingEngine.output(0, dataclasses.replace(SAMPLED, n=4), attempt_key(1000, sequence.attempts - 1))
        assert sequence.text == first.sequences[sequence.sample].text


def test_a_row_that_draws_nothing_is_not_run_again_unless_given_a_temperature():
    rows = [SamplingParams(), SamplingParams(beam_width=2), dataclasses.replace(SAMPLED, top_k=1)]
    _, engine = run(RetryPolicy(5), rows)
    assert len(engine.runs) == 3
    outputs, engine = run(RetryPolicy(5, retry_temperature=0.7), rows)
    temperatures = [params.temperature for request_id, params, _ in engine.runs if request_id == 0]
    assert temperatures == [0.0] + [0.7] * (outputs[0].sequences[0].attempts - 1)
    assert outputs[1].sequences[0].attempts == outputs[2].sequences[0].attempts == 1


def test_a_request_that_failed_is_not_run_again():
    class Failing(DrawingEngine):
        @staticmethod
        def output(request_id, params, key):
            return RequestOutput(request_id, 3, (), "it failed")

    inner = Failing()
    engine = RetryingEngine(inner, RetryPolicy(5))
    engine.add_request(0, [1], SAMPLED, 7)
    while engine.has_unfinished():
        engine.step()
    assert len(inner.runs) == 1


def test_only_the_reasons_that_were_asked_for_count():
    cut = SequenceOutput(0, [1, 2], "x", "length")
    wrong = SequenceOutput(0, [1, 2], "x", "stop", error="no JSON", error_code=ErrorCode.INVALID_OUTPUT)
    loop = SequenceOutput(0, [1, 2] * 20, "x", "stop")
    for reason, sequence in (("length", cut), ("invalid_output", wrong), ("repetition", loop)):
        found = [RetryPolicy(1, (reason,)).is_bad(each) for each in (cut, wrong, loop)]
        assert found == [each is sequence for each in (cut, wrong, loop)]
        assert RetryPolicy(1).is_bad(sequence)
    assert parse_reasons(" repetition,length") == ("length", "repetition")


WRONG = [lambda: RetryPolicy(-1), lambda: RetryPolicy(1, retry_temperature=-1), lambda: parse_reasons("len")]


@pytest.mark.parametrize("make", WRONG)
def test_what_makes_no_sense_names_its_flag(make):
    with pytest.raises(UsageError, match=r"^--retry"):
        make()


@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 40))
def test_a_loop_is_found_by_its_rounds_and_its_length(before, period, times):
    loop = period * times
    if times >= MIN_TIMES and len(loop) >= MIN_TOKENS + len(period):
        assert ends_in_loop(before + loop)
    tokens = before + loop
    found = any(
        all(tokens[-1 - i] == tokens[-1 - i - p] for i in range(max(MIN_TIMES * p, MIN_TOKENS) - p))
        for p in range(1, MAX_PERIOD + 1)
        if max(MIN_TIMES * p, MIN_TOKENS) <= len(tokens)
    )
    assert ends_in_loop(tokens) == found


def test_the_attempts_of_a_row_have_keys_of_their_own():
    keys = {attempt_key(row, attempt) for row in (0, 1, 2**64 - 1) for attempt in range(50)}
    assert len(keys) == 150
    assert attempt_key(5, 0) == 5
