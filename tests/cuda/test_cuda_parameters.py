"""Every way of choosing a token, in one mixed batch on the GPU: tokens equal transformers', log probabilities the model's own;
with steps launched ahead and without, from graphs and not."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cuda.steps.runner import CudaRunner
from pagecli.engine.engine import Engine
from pagecli.engine.generation import decoding
from pagecli.engine.overlapped import PLACEHOLDER

pytestmark = pytest.mark.cuda
NUM_TOKENS, MASKED = 7, 99
SAMPLES = SamplingParams(max_tokens=5, ignore_eos=True, n=4, temperature=0.9, top_p=0.9, seed=8)
GREEDY = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 5, 6]
CASES = {
    0: (PROMPT, GREEDY),
    1: (PROMPT, dataclasses.replace(GREEDY, repetition_penalty=1.4, logprobs=3)),
    2: (
        PROMPT[:4],
        dataclasses.replace(GREEDY, repetition_penalty=0.6, presence_penalty=-0.3, frequency_penalty=0.9),
    ),
    3: (PROMPT[:6], dataclasses.replace(GREEDY, ignore_eos=False, min_tokens=5, stop_token_ids=tuple(range(0, 380, 2)))),
    4: (PROMPT, SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, beam_width=3, n=3)),
    5: (PROMPT[3:], SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, beam_width=2, n=2, repetition_penalty=1.5)),
    6: (PROMPT, dataclasses.replace(SAMPLES, logprobs=2, repetition_penalty=1.2, frequency_penalty=0.5)),
    7: (PROMPT, dataclasses.replace(SAMPLES, n=2, best_of=4)),
    8: (PROMPT, SAMPLES),
    9: ([5, 6, 5, 6, 7, 5, 6], dataclasses.replace(GREEDY, no_repeat_ngram_size=2)),
    MASKED: (PROMPT[2:], dataclasses.replace(GREEDY, logprobs=2, repetition_penalty=1.2)),
}


def allowed(last: int, vocab_size: int) -> list[int]:
    """A language: which tokens may follow which."""
    return [token for token in range(vocab_size) if (token + last) % 5 < 2]


@dataclass
class FollowMask:
    """A core.token_masks.MaskSource of that language."""

    tokens: list[int]
    vocab_size: int

    def fill(self, words: np.ndarray) -> bool:
        assert self.tokens[-1] != PLACEHOLDER, "the mask is asked for before its last token is known"
        bits = np.zeros(32 * len(words), dtype=np.uint8)
        bits[allowed(self.tokens[-1], self.vocab_size)] = 1
        words[:] = np.packbits(bits, bitorder="little").view(np.uint32)
        return True


@pytest.fixture
def masked_specs(monkeypatch):
    """Request MASKED may say words of the language alone."""
    make = decoding.specs

    def with_mask(sequence, finish_check):
        specs = make(sequence, finish_check)
        if sequence.request.request_id == MASKED:
            specs = tuple(dataclasses.replace(spec, mask=FollowMask(sequence.token_ids, 384)) for spec in specs)
            sequence.specs = specs if sequence.specs else ()
        return specs

    monkeypatch.setattr(decoding, "specs", with_mask)


def run(path, cases, **changes):
    settings = {"dtype": "float32", "max_num_seqs": 24, "max_batch_tokens": 48, "kv_memory_bytes": 2**21, "max_model_len": 64}
    engine = Engine(EngineConfig(str(path), check_integrity=True, **(settings | changes)))
    for i, (prompt, params) in cases.items():
        engine.add_request(i, prompt, params)
    found = {}
    while engine.has_unfinished():
        found |= {output.request_id: output for output in engine.step()}
    assert all(output.error is None for output in found.values())
    return found


class Added:
    """Presence and frequency penalties, which transformers has not."""

    def __init__(self, presence: float, frequency: float, num_prompt: int) -> None:
        self.presence, self.frequency, self.num_prompt = presence, frequency, num_prompt

    def __call__(self, input_ids, scores):
        counts = torch.bincount(input_ids[0, self.num_prompt :], minlength=scores.shape[1])
        return scores - self.presence * (counts > 0) - self.frequency * counts


@pytest.fixture(scope="module")
def transformers_tokens(tiny_model):
    """Of each case whose tokens are not drawn, what transformers generates: its sequences, best first."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32).eval()
    found = {}
    for i, (prompt, params) in CASES.items():
        if params.temperature > 0:
            continue
        options = {"num_beams": params.beam_width, "num_return_sequences": params.n}
        if params.min_tokens:
            options |= {"min_new_tokens": params.min_tokens}
        if params.repetition_penalty != 1.0:
            options |= {"repetition_penalty": params.repetition_penalty}
        if params.no_repeat_ngram_size:
            options |= {"no_repeat_ngram_size": params.no_repeat_ngram_size}
        if params.presence_penalty or params.frequency_penalty:
            options |= {"logits_processor": [Added(params.presence_penalty, params.frequency_penalty, len(prompt))]}
        if i == MASKED:
            options |= {"prefix_allowed_tokens_fn": lambda _, ids: allowed(int(ids[-1]), 384)}
        eos = list(params.stop_token_ids) or [2] if not params.ignore_eos else None
        output = model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=params.max_tokens, do_sample=False, eos_token_id=eos, pad_token_id=0, **options,
        )  # fmt: skip
        found[i] = [row[len(prompt) :].tolist() for row in output]
    return model, found


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("pipelined", [False, True], ids=["one by one", "ahead"])
def test_tokens_equal_transformers(tiny_model, transformers_tokens, masked_specs, monkeypatch, graphs, pipelined):
    if not pipelined:
        monkeypatch.setattr(CudaRunner, "can_pipeline", lambda self, plan: False)
    path, (model, expected) = tiny_model("llama"), transformers_tokens
    found = run(path, CASES, device="cuda", cuda_graphs=graphs)
    for i, sequences in expected.items():
        ours = [s.token_ids for s in found[i].sequences]
        assert ours == [tokens[: len(own)] for tokens, own in zip(sequences, ours, strict=True)], f"case {i}"
    drawn = {i: case for i, case in CASES.items() if case[1].temperature > 0}
    on_cpu = run(path, drawn)
    for i in drawn:
        assert [s.token_ids for s in found[i].sequences] == [s.token_ids for s in on_cpu[i].sequences], f"case {i}"
        scores = [(s.score, other.score) for s, other in zip(found[i].sequences, on_cpu[i].sequences, strict=True)]
        assert all(a == b or abs(a - b) < 1e-4 for a, b in scores)
    for i in (1, 6, MASKED):
        assert_logprobs_are_the_models(model, CASES[i][0], CASES[i][1].logprobs, found[i])


def assert_logprobs_are_the_models(model, prompt, num_top, output):
    """Before penalties and masks, of the chosen token and of the likeliest ones."""
    for sequence in output.sequences:
        with torch.inference_mode():
            expected = model(torch.tensor([prompt + sequence.token_ids])).logits[0].double().log_softmax(-1)
        assert len(sequence.logprobs) == len(sequence.token_ids)
        for at, logprobs in enumerate(sequence.logprobs, start=len(prompt) - 1):
            assert logprobs.token_id == sequence.token_ids[at - len(prompt) + 1]
            assert abs(logprobs.logprob - float(expected[at, logprobs.token_id])) < 1e-4
            values, ids = expected[at].topk(num_top)
            assert [token_id for token_id, _ in logprobs.top] == ids.tolist()
            assert np.allclose([value for _, value in logprobs.top], values.numpy(), atol=1e-4)
