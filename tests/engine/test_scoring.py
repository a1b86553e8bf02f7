"""Log probabilities of given tokens: the values of transformers, and the same bits whatever runs beside a row."""

import itertools

import numpy as np
import pytest
import tiny_models
import torch
from asynchronous_runner import AsynchronousRunner
from test_same_text import SETTINGS, make_engine, make_rows, outputs

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import ScoreSpec, max_scores
from pagecli.devices.cpu.model import CpuModel
from pagecli.engine.engine import Engine
from pagecli.errors import RowError


def token_ids(count, seed):
    return torch.randint(3, 340, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def requests():
    """(prompt, choices): one and several, of one token and more, some with a common beginning, prompts with one, too."""
    shared = token_ids(70, 0)
    return [
        (shared, [token_ids(1, 1)]),
        (shared + token_ids(9, 2), [token_ids(n, n) for n in (1, 30, 1, 4)]),
        (shared + token_ids(20, 3), [token_ids(40, 4)]),
        (token_ids(1, 5), [token_ids(17, 6), token_ids(17, 6), [*token_ids(17, 6), 7], token_ids(2, 8)]),
        (token_ids(33, 9), [token_ids(100, 10)[: 50 + i] for i in range(4)]),
        (shared + token_ids(9, 2), [token_ids(n, n) for n in (1, 30, 1, 4)]),
    ]


def run(engine):
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output for output in engine.step()}
    return done


def scores(engine, num_top=None, beside=()):
    for i, (prompt, choices) in enumerate(requests()):
        engine.add_score_request(i, prompt, choices, num_top)
    for i, (prompt, params) in enumerate(beside):
        engine.add_request(100 + i, prompt, params, row_key=i)
    done = run(engine)
    assert engine._kv.num_used_blocks == 0
    return [done[i].sequences for i in range(len(requests()))], [done[100 + i].sequences for i in range(len(beside))]


@torch.inference_mode()
def expected_logprobs(model, ids):
    """[len(ids) - 1, vocab]: of what follows each token."""
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)[:-1]


FAMILIES = [pytest.param(name, marks=() if name == "llama" else pytest.mark.slow) for name in tiny_models.TINY_MODELS]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_scores_are_those_of_transformers(tiny_model, name, device):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model(name)).eval()
    config = EngineConfig(str(tiny_model(name)), device=device, dtype="float32", kv_memory_bytes=1 << 24, check_integrity=True)
    found, _ = scores(Engine(config), num_top=3)
    for (prompt, choices), sequences in zip(requests(), found, strict=True):
        for choice, sequence in zip(choices, sequences, strict=True):
            expected = expected_logprobs(model, prompt + choice)[len(prompt) - 1 :]
            assert [score.token_id for score in sequence.token_scores] == choice == sequence.token_ids
            for row, score in zip(expected, sequence.token_scores, strict=True):
                assert score.logprob == pytest.approx(row[score.token_id].item(), abs=2e-5)
                assert score.is_greedy == (row.argmax().item() == score.token_id)
                assert [logprob for _, logprob in score.top] == pytest.approx(row.topk(3).values.tolist(), abs=2e-5)
            assert sequence.score == pytest.approx(sum(score.logprob for score in sequence.token_scores))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_scored_beside_its_generation(tiny_model, name):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model(name)).eval()
    engine = make_engine_of(tiny_model(name))
    prompts = [token_ids(n, n) for n in (1, 2, 40, 200, 40)]
    for i, prompt in enumerate(prompts):
        engine.add_request(i, prompt, SamplingParams(max_tokens=5, prompt_logprobs=2, n=1 + i % 2, temperature=float(i % 2)))
        engine.add_request(10 + i, prompt, SamplingParams(max_tokens=5, n=1 + i % 2, temperature=float(i % 2)), row_key=i)
    done = run(engine)
    for i, prompt in enumerate(prompts):
        assert done[i].sequences == done[10 + i].sequences
        assert done[10 + i].prompt_scores is None
        expected = expected_logprobs(model, prompt)[range(len(prompt) - 1), prompt[1:]]
        assert [score.token_id for score in done[i].prompt_scores] == prompt[1:]
        assert [score.logprob for score in done[i].prompt_scores] == pytest.approx(expected.tolist(), abs=2e-5)


def make_engine_of(path, **config):
    return Engine(EngineConfig(str(path), dtype="float32", kv_memory_bytes=1 << 24, check_integrity=True, **config))


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_and_texts_have_the_same_bits_in_any_batch(tiny_model, name):
    path = tiny_model("llama")
    rows = make_rows(14)
    expected_rows = outputs(make_engine(path), rows)
    alone, _ = scores(make_engine(path, max_num_seqs=8))
    found, texts = scores(make_engine(path, **SETTINGS[name]), beside=rows)
    assert found == alone
    assert texts == expected_rows


def test_scores_have_the_same_bits_row_by_row_and_choice_by_choice(tiny_model):
    together, _ = scores(make_engine(tiny_model("llama")))
    engine = make_engine(tiny_model("llama"))
    for (prompt, choices), sequences in zip(requests(), together, strict=True):
        for choice, sequence in zip(choices, sequences, strict=True):
            engine.add_score_request(0, prompt, [choice])
            assert run(engine)[0].sequences[0].token_scores == sequence.token_scores


def test_scores_on_an_asynchronous_device(tiny_model, monkeypatch):
    rows = make_rows(14)
    expected = scores(make_engine(tiny_model("llama")), beside=rows)
    monkeypatch.setattr("pagecli.devices.cpu.device.ModelRunner", AsynchronousRunner)
    engine = make_engine(tiny_model("llama"))
    assert engine._overlapped is not None
    assert scores(engine, beside=rows) == expected


def test_choices_share_their_prompt(tiny_model):
    prompt, choices = token_ids(203, 0), [token_ids(n, n) for n in (1, 2, 7, 1)]
    engine = make_engine(tiny_model("llama"), prefix_caching=False)
    engine.add_score_request(0, prompt, choices)
    run(engine)
    assert engine.stats()["num_computed_tokens"] == len(prompt) + sum(len(choice) - 1 for choice in choices)


def test_the_logits_of_a_step_are_bounded(tiny_model, monkeypatch):
    most, forward = [], CpuModel.forward

    def counted(self, inputs, kv):
        most.append(len(inputs.logit_rows))
        return forward(self, inputs, kv)

    monkeypatch.setattr(CpuModel, "forward", counted)
    monkeypatch.setattr("pagecli.core.step_plan.MAX_SCORE_BYTES", 24 * 4 * tiny_models.TINY_VOCAB_SIZE)
    engine = make_engine(tiny_model("llama"), max_num_seqs=6)
    scores(engine, beside=make_rows(6))
    assert max_scores(tiny_models.TINY_VOCAB_SIZE) == 24
    assert 24 <= max(most) <= 24 + 6


def test_max_scores_keeps_every_vocabulary_within_bounds():
    assert [max_scores(v) for v in (100, 32_000, 151_936, 256_000, 10_000_000)] == [256, 256, 110, 65, 16]


def test_a_plan_says_what_it_scores(tiny_model):
    """Each token once, from the logits of the one before it, in chunks of any size."""
    prompt, choice = token_ids(30, 1), token_ids(60, 2)
    engine = make_engine(tiny_model("llama"), max_num_seqs=8, max_batch_tokens=16)
    engine.add_score_request(0, prompt, [choice])
    wanted = []
    launch = engine._runner.launch

    def watched(plan):
        for chunk in plan.chunks:
            if isinstance(chunk.wanted, ScoreSpec):
                wanted.extend((chunk.start + chunk.wanted.first + i, t) for i, t in enumerate(chunk.wanted.token_ids))
        return launch(plan)

    engine._runner.launch = watched
    run(engine)
    assert wanted == list(zip(itertools.count(len(prompt) - 1), choice, strict=False))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_make_an_error_row(tiny_model, monkeypatch, bad):
    forward = CpuModel.forward

    def damaged(self, inputs, kv):
        logits = forward(self, inputs, kv)
        logits[inputs.positions[inputs.logit_rows] == 75] = bad
        return logits

    monkeypatch.setattr(CpuModel, "forward", damaged)
    engine = make_engine(tiny_model("llama"))
    engine.add_score_request(0, token_ids(70, 0), [token_ids(3, 1), token_ids(20, 2)])
    engine.add_score_request(1, token_ids(70, 0), [token_ids(3, 1)])
    done = run(engine)
    assert "not finite" in done[0].error
    assert done[1].error is None


@pytest.mark.parametrize(
    ("prompt", "choices", "words"),
    [
        ([], [[5]], "no tokens"),
        ([5], [], "no tokens"),
        ([5], [[6], []], "no tokens"),
        ([5], [[6], [384]], "vocabulary"),
        ([5] * 500, [[6] * 20], "the limit is 513"),
        ([5], [[6]] * 65, "65 choices"),
    ],
)
def test_what_cannot_be_scored_is_refused(tiny_model, prompt, choices, words):
    with pytest.raises(RowError, match=words):
        make_engine(tiny_model("llama")).add_score_request(0, prompt, choices)
