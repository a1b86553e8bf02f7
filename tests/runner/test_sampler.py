"""The next token of each row: filters, penalties and draws, each against its definition, and never touched by the batch."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import NO_TOKEN, SampledToken, SampleSpec
from pagecli.devices import random_draws
from pagecli.devices.cpu import device, sampler

VOCAB = 40


def make_spec(row_key=0, sample=0, known=(1, 2, 3), num_prompt=2, forbidden=(), **params):
    return SampleSpec(SamplingParams(**params), row_key, sample, list(known), num_prompt, tuple(forbidden))


def make_logits(rows=1, vocab=VOCAB, seed=0):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2


def sample(logits, specs):
    """One token for each row of logits (numpy's, changed)."""
    results = sampler.choose(logits, [(spec,) for spec in specs])
    return [SampledToken(result) if isinstance(result, int) else SampledToken(result.token_id, result) for result in results]


def sample_ids(logits, specs):
    return [s.token_id for s in sample(logits.clone().numpy(), specs)]


def frequencies(logits, num_draws=4000, **params):
    """How often each token comes up over rows that differ in nothing but their key."""
    specs = [make_spec(row_key=i, **params) for i in range(num_draws)]
    ids = torch.tensor(sample_ids(logits.expand(num_draws, -1), specs))
    return torch.bincount(ids, minlength=len(logits)).double() / num_draws


def expected_distribution(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The definition, token by token, in the order temperature, top-k, top-p, min-p."""
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    order = probs.argsort(descending=True)
    kept = order[:top_k] if top_k else order
    mass, chosen = 0.0, []
    total = float(probs[kept].sum())
    for token in kept.tolist():
        if chosen and mass >= top_p * total:
            break
        chosen.append(token)
        mass += float(probs[token])
    chosen = [t for t in chosen if float(probs[t]) >= min_p * float(probs.max())]
    result = torch.zeros_like(probs)
    result[chosen] = probs[chosen] / probs[chosen].sum()
    return result


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.3, "top_p": 0.7},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 1.0, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(params):
    logits = make_logits()[0]
    expected = expected_distribution(logits, **params)
    observed = frequencies(logits, **params)
    assert observed[expected == 0].sum() == 0, "a token that a filter excludes was drawn"
    likely = expected > 0
    chi_square = 4000 * ((observed - expected)[likely] ** 2 / expected[likely]).sum()
    freedom = int(likely.sum()) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom), "further from the distribution than chance allows"


def test_top_p_over_a_flat_large_vocabulary_keeps_what_the_definition_keeps():
    logits = make_logits(vocab=5000, seed=3)[0] * 0.1
    allowed = expected_distribution(logits, top_p=0.9) > 0
    assert int(allowed.sum()) > 1000
    drawn = sample_ids(logits.expand(200, -1), [make_spec(row_key=i, temperature=1.0, top_p=0.9) for i in range(200)])
    assert all(allowed[token] for token in drawn)
    assert len(set(drawn)) > 100


def test_temperature_zero_takes_the_most_likely_token():
    logits = make_logits(rows=5)
    assert sample_ids(logits, [make_spec() for _ in range(5)]) == logits.argmax(dim=-1).tolist()


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_known_tokens():
    logits = torch.full((1, VOCAB), -5.0)
    logits[0, 1], logits[0, 4] = 2.0, 1.5
    assert sample_ids(logits, [make_spec()]) == [1]
    assert sample_ids(logits, [make_spec(repetition_penalty=1.5)]) == [4]
    logits = torch.full((1, VOCAB), -5.0)
    logits[0, 3], logits[0, 7] = -1.0, -1.5
    assert sample_ids(logits, [make_spec(repetition_penalty=2.0)]) == [7]


def test_presence_and_frequency_penalties_count_output_tokens_only():
    logits = torch.zeros(1, VOCAB)
    logits[0, 1], logits[0, 3], logits[0, 5] = 2.0, 3.0, 1.9
    known = (1, 1, 3, 3)  # prompt: 1, 1; output: 3, 3
    assert sample_ids(logits, [make_spec(known=known)]) == [3]
    assert sample_ids(logits, [make_spec(known=known, presence_penalty=0.9)]) == [3]
    assert sample_ids(logits, [make_spec(known=known, frequency_penalty=0.9)]) == [1]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_no_ngram_comes_a_second_time_as_in_transformers(size):
    from transformers import NoRepeatNGramLogitsProcessor

    draw = random.Random(size)
    for length in (1, 2, 4, 30):
        known = tuple(draw.randrange(4) for _ in range(length))
        logits = make_logits()
        expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor([known]), logits.clone())
        assert sample_ids(logits, [make_spec(known=known, no_repeat_ngram_size=size)]) == expected.argmax(dim=-1).tolist()
        changed = logits.clone().numpy()
        sample(changed, [make_spec(known=known, no_repeat_ngram_size=size)])
        assert np.array_equal(changed, expected.numpy())


def test_forbidden_tokens_are_never_chosen():
    logits = make_logits()
    best = int(logits.argmax())
    assert sample_ids(logits, [make_spec(forbidden=(best,))]) == [int(logits[0].argsort(descending=True)[1])]


def test_logprobs_are_the_models_own_before_penalties_and_temperature():
    logits = make_logits()
    expected = torch.log_softmax(logits[0], dim=-1)
    token = sample(logits.clone().numpy(), [make_spec(logprobs=3, temperature=0.7, repetition_penalty=2.0)])[0]
    assert token.logprobs.logprob == pytest.approx(float(expected[token.token_id]), abs=1e-6)
    best = expected.argsort(descending=True)[:3].tolist()
    assert [i for i, _ in token.logprobs.top] == best
    assert [p for _, p in token.logprobs.top] == pytest.approx([float(expected[i]) for i in best], abs=1e-6)


specs = st.builds(
    make_spec,
    row_key=st.integers(0, 2**64 - 1),
    sample=st.integers(0, 3),
    seed=st.integers(0, 2**64 - 1),
    temperature=st.sampled_from([0.0, 0.6, 1.0]),
    top_k=st.sampled_from([0, 1, 7]),
    top_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    logprobs=st.sampled_from([None, 2]),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(specs, min_size=1, max_size=12), st.integers(0, 1000))
def test_a_rows_token_is_the_same_alone_and_in_any_batch(batch, seed):
    logits = make_logits(rows=len(batch), vocab=2000, seed=seed)
    together = sample(logits.clone().numpy(), batch)
    alone = [sample(logits[i : i + 1].clone().numpy(), [spec])[0] for i, spec in enumerate(batch)]
    assert [t.token_id for t in together] == [t.token_id for t in alone]
    assert together == alone


def test_draws_differ_by_seed_row_sample_and_position_and_repeat_otherwise():
    base = {"seed": 1, "row_key": 2, "sample": 0, "position": 4}
    draws = {random_draws.draw(**(base | {name: 9})) for name in base} | {random_draws.draw(**base)}
    assert len(draws) == 5
    assert random_draws.draw(**base) == random_draws.draw(**base)
    assert all(0 <= draw < 2**53 for draw in draws)


def test_draws_are_uniform():
    counts = torch.bincount(torch.tensor([random_draws.draw(0, key, 0, 0) >> 49 for key in range(8000)]), minlength=16)
    chi_square = float(((counts - 500.0) ** 2 / 500.0).sum())
    assert chi_square < 15 + 5 * math.sqrt(30), "further from uniform than chance allows"


def test_position_is_counted_in_output_tokens():
    spec = make_spec(known=(1, 2, 3, 4), num_prompt=3)
    assert spec.position == 1
    assert dataclasses.replace(spec, num_prompt_tokens=4).position == 0


def test_several_specs_of_a_row_draw_as_samples_of_their_own():
    logits = make_logits(rows=2)
    forks = tuple(make_spec(row_key=5, sample=i, temperature=1.0) for i in range(6))
    plain = (make_spec(row_key=6, temperature=1.0),)
    first, second = sampler.choose(logits.clone().numpy(), [forks, plain])
    assert [t.token_id for t in first] == sample_ids(logits[[0] * 6], forks)
    assert len({t.token_id for t in first}) > 1
    assert [second] == sample_ids(logits[1:], plain)


def beam_spec(num_candidates, **params):
    return dataclasses.replace(make_spec(beam_width=2, **params), num_candidates=num_candidates)


def test_a_beam_gets_its_most_likely_tokens_best_first():
    logits = make_logits(rows=2)
    found = sampler.choose(logits.clone().numpy(), [(beam_spec(3),), (beam_spec(VOCAB + 9),)])
    for row, (candidates, wanted) in enumerate(zip(found, (3, VOCAB), strict=True)):
        expected, ids = torch.log_softmax(logits[row], dim=-1).sort(descending=True)
        assert candidates.token_ids == ids[:wanted].tolist()
        assert candidates.logprobs == pytest.approx(expected[:wanted].tolist(), abs=1e-6)


def test_a_beams_penalties_act_on_log_probabilities_and_forbidden_tokens_are_no_candidates():
    logits = make_logits()
    best = int(logits.argmax())
    expected = torch.log_softmax(logits[0], dim=-1)
    (found,) = sampler.choose(logits.clone().numpy(), [(beam_spec(VOCAB, known=(1, best, 3), repetition_penalty=2.0),)])
    penalized = dict(zip(found.token_ids, found.logprobs, strict=True))
    assert penalized[best] == pytest.approx(2 * float(expected[best]), abs=1e-6)
    (found,) = sampler.choose(logits.clone().numpy(), [(beam_spec(5, forbidden=(best,)),)])
    assert best not in found.token_ids


@pytest.mark.filterwarnings("error")
def test_logits_that_are_no_numbers_give_neither_tokens_nor_candidates():
    logits = torch.full((2, VOCAB), float("nan"))
    logits[1, 3] = float("-inf")
    beam, sampled = sampler.choose(logits.numpy(), [(beam_spec(3),), (make_spec(logprobs=2),)])
    assert beam.token_ids == beam.logprobs == []
    assert sampled == NO_TOKEN


def test_samples_and_beams_in_one_batch_do_not_touch_each_other():
    logits = make_logits(rows=4, vocab=500)
    batch = [
        (make_spec(row_key=1, temperature=1.0, repetition_penalty=1.5), make_spec(row_key=1, sample=1, temperature=1.0)),
        (beam_spec(8, presence_penalty=0.5),),
        (make_spec(row_key=2, logprobs=2),),
        (beam_spec(4),),
    ]
    together = sampler.choose(logits.clone().numpy(), batch)
    assert together == [sampler.choose(logits[i : i + 1].clone().numpy(), [row])[0] for i, row in enumerate(batch)]


@pytest.mark.parametrize(
    "asks",
    [
        {"temperature": 0.5},
        {"logprobs": 0},
        {"best_of": 1},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": 0.1},
        {"forbidden": (3,)},
    ],
    ids=lambda asks: next(iter(asks)),
)
def test_logits_are_needed_unless_every_token_is_just_the_most_likely(asks):
    plain = make_spec()
    asked = device.AskedOfRows()
    assert asked.of([(plain,), (plain, plain)]).are_argmaxes
    assert not asked.of([(plain,), (plain, make_spec(**asks))]).are_argmaxes
    assert not asked.of([(dataclasses.replace(plain, num_candidates=2),)]).are_argmaxes


def test_tokens_known_without_logits_go_to_every_sample_of_their_row():
    plain = make_spec()
    results = device.same_for_all(np.array([7, 9]), [(plain,), (plain, plain)])
    assert results == [7, (SampledToken(9), SampledToken(9))]
