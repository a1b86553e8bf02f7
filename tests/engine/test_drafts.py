"""Tokens guessed and verified several at a time: whatever the guesses, what leaves the engine is the same to the bit."""

import random

import pytest
from test_same_text import KINDS, SETTINGS, make_engine, make_rows, outputs

from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import NO_TOKEN
from pagecli.devices.cpu.model import CpuModel

SLOW = pytest.mark.slow
STOPS = (
    {"stop": ("e", "zz"), "temperature": 1.0, "seed": 5},
    {"stop_token_ids": tuple(range(0, 384, 7)), "min_tokens": 3},
    {"frequency_penalty": 0.4, "presence_penalty": 0.3, "temperature": 0.8},
    {"stop_token_ids": tuple(range(0, 384, 5)), "temperature": 1.5, "min_tokens": 5, "n": 3},
)


class Foretold:
    """Guesses what the sequences of another run went on with, each token wrong at a rate."""

    def __init__(self, rows, expected, error_rate=0.2, max_tokens=8, max_sequences=128):
        self.known = [
            list(prompt) + list(sequence.token_ids)
            for (prompt, _), sequences in zip(rows, expected, strict=True)
            for sequence in sequences
        ]
        self.error_rate, self.max_tokens, self.max_sequences = error_rate, max_tokens, max_sequences
        self.num_drafts = self.num_accepted = 0
        self._random = random.Random(0)

    def propose(self, sequence, max_tokens):
        ids = sequence.token_ids
        found = next((known for known in self.known if known[: len(ids)] == ids), [])
        draft = found[len(ids) : len(ids) + min(max_tokens, self._random.randint(1, self.max_tokens))]
        return [t if self._random.random() > self.error_rate else self._random.randrange(3, 340) for t in draft]

    def record(self, sequence, num_drafts, num_accepted):
        assert 0 <= num_accepted <= num_drafts
        self.num_drafts += num_drafts
        self.num_accepted += num_accepted

    def stats(self):
        return {}


def all_rows(count=24):
    rows = make_rows(count)
    more = [(prompt, SamplingParams(max_tokens=20, **STOPS[i % 4])) for i, (prompt, _) in enumerate(make_rows(8, seed=1))]
    return rows + more


@pytest.fixture(scope="module", params=["llama", pytest.param("opt", marks=pytest.mark.slow)])
def path(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def expected(path):
    return outputs(make_engine(path), all_rows())


@pytest.mark.parametrize("error_rate", [pytest.param(0.0, marks=SLOW), 0.3, pytest.param(1.0, marks=SLOW)])
@pytest.mark.parametrize("name", ["as it is", *SETTINGS])
def test_drafts_change_no_bit(path, expected, name, error_rate):
    engine = make_engine(path, **SETTINGS.get(name, {}))
    engine.scheduler.drafter = drafter = Foretold(all_rows(), expected, error_rate)
    assert outputs(engine, all_rows()) == expected
    assert engine._kv.num_used_blocks == 0
    assert drafter.num_drafts > 100
    share = drafter.num_accepted / drafter.num_drafts  # samples that begin alike are guessed from one another
    least, most = {0.0: (0.8, 1), 0.3: (0.3, 0.8), 1.0: (0, 0.02)}[error_rate]
    assert least <= share <= most


@pytest.mark.parametrize("kv_policy", ["reserve-max", "reserve-pow2", "reserve-oracle"])
def test_drafts_stay_within_memory_that_was_reserved(path, expected, kv_policy):
    rows = [row for row in all_rows() if row[1].beam_width == 1]
    without_beams = [e for e, row in zip(expected, all_rows(), strict=True) if row[1].beam_width == 1]
    engine = make_engine(path, kv_policy=kv_policy)
    engine.scheduler.drafter = Foretold(rows, without_beams)
    assert outputs(engine, rows, [i for i, row in enumerate(all_rows()) if row[1].beam_width == 1]) == without_beams


@pytest.mark.slow
def test_right_drafts_save_steps_and_wrong_ones_cost_none(path, expected):
    steps = {}
    for rate in (None, 0.0, 1.0):
        engine = make_engine(path)
        if rate is not None:
            engine.scheduler.drafter = Foretold(all_rows(), expected, rate)
        outputs(engine, all_rows())
        steps[rate] = engine.stats()["num_steps"]
        assert engine.stats()["num_sampled_tokens"] == sampled_without(path)
    assert steps[0.0] < steps[None] == steps[1.0]


def sampled_without(path):
    engine = make_engine(path)
    outputs(engine, all_rows())
    return engine.stats()["num_sampled_tokens"]


@pytest.mark.slow
def test_slots_of_drafts_that_did_not_hold_are_given_back(path, expected):
    """After every step a sequence holds the blocks of its computed tokens, no more."""
    engine = make_engine(path, block_size=2)
    engine.scheduler.drafter = Foretold(all_rows(), expected, 1.0)
    commit = engine.scheduler.commit

    def checked(plan, results):
        committed = commit(plan, results)
        for request in engine.scheduler.running:
            for sequence in request.live:
                assert len(engine._kv.block_table(sequence.seq_id)) == engine._kv.num_blocks_for(sequence.num_computed)
        return committed

    engine.scheduler.commit = checked
    assert outputs(engine, all_rows()) == expected


def test_a_draft_behind_logits_that_are_not_finite_fails_the_row_where_it_would_fail_without(path, monkeypatch):
    """Its logits count only where the tokens before it hold."""
    forward, most_likely = CpuModel.forward, CpuModel.most_likely

    def damaged(self, inputs, kv):
        logits = forward(self, inputs, kv)
        logits[inputs.positions[inputs.logit_rows] == 30] = float("nan")
        return logits

    def damaged_argmax(self, inputs, kv, masks):
        token_ids = most_likely(self, inputs, kv, masks)
        token_ids[inputs.positions[inputs.logit_rows] == 30] = NO_TOKEN
        return token_ids

    monkeypatch.setattr(CpuModel, "forward", damaged)
    monkeypatch.setattr(CpuModel, "most_likely", damaged_argmax)
    rows = [(prompt[:20], SamplingParams(max_tokens=n)) for n in (9, 11, 12) for prompt, _ in make_rows(4)]
    plain = run(make_engine(path), rows)
    engine = make_engine(path)
    engine.scheduler.drafter = Foretold(rows, outputs_without_damage(path, rows, monkeypatch), 0.1)
    assert run(engine, rows) == plain
    assert {output.error is None for output in plain} == {True, False}


def outputs_without_damage(path, rows, monkeypatch):
    with monkeypatch.context() as patch:
        patch.undo()
        return outputs(make_engine(path), rows)


def run(engine, rows):
    for i, (prompt, params) in enumerate(rows):
        engine.add_request(i, prompt, params)
    done = []
    while engine.has_unfinished():
        done += engine.step()
    return sorted(done, key=lambda output: output.request_id)


def test_every_kind_of_row_is_among_them():
    kinds = [row[1] for row in all_rows()]
    assert len(kinds) == 32
    assert len(set(kinds)) > len(KINDS) + len(STOPS)
