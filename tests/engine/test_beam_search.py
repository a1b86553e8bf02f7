"""Beam search against transformers' generate(num_beams=k): the same hypotheses in the same order with the same scores."""

import json
from pathlib import Path

import pytest
import torch

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.memory import kv_bytes_per_token
from pagecli.engine.engine import Engine

PROMPTS = Path(__file__).resolve().parents[2] / "sample_data" / "prompts.jsonl"
MODES = {"true": True, "false": False, "never": "never"}
VOCAB = 340
MAX_TOKENS = 14
TOLERANCE = 1e-4  # of a score


@pytest.fixture(scope="module", params=["opt", "llama"])
def pair(request, tiny_model):
    """The engine and transformers' model of one tiny architecture, float32."""
    from transformers import AutoModelForCausalLM

    path = tiny_model(request.param)
    config = EngineConfig(
        str(path), dtype="float32", kv_memory_bytes=32 << 20, max_num_seqs=48, threads=1, check_integrity=True
    )
    return Engine(config), AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def random_prompts(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def beams_of_engine(engine, prompts, **params):
    """(output token ids, score) of every hypothesis of each prompt, best first; all prompts in one batch."""
    for i, prompt in enumerate(prompts):
        engine.add_request(i, prompt, SamplingParams(n=params["beam_width"], **params))
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output for output in engine.step()}
    return [[(s.token_ids, s.score) for s in done[i].sequences] for i in range(len(prompts))]


def beams_of_transformers(model, prompt, width, length_penalty, early_stopping, eos_ids, max_tokens):
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_tokens,
        num_beams=width,
        num_return_sequences=width,
        length_penalty=length_penalty,
        early_stopping=MODES[early_stopping],
        eos_token_id=list(eos_ids) or None,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    hypotheses = []
    for row, score in zip(output.sequences[:, len(prompt) :].tolist(), output.sequences_scores.tolist(), strict=True):
        ends = [i for i, token in enumerate(row) if token in eos_ids]
        hypotheses.append((row[: ends[0] + 1] if ends else row, score))
    return hypotheses


def assert_same(ours, theirs, what):
    assert [ids for ids, _ in ours] == [ids for ids, _ in theirs], what
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=TOLERANCE), what


def frequent_tokens(engine, prompts, width, count):
    """Tokens that beams run through at different times: as end tokens they end hypotheses early and late."""
    seen: dict[int, int] = {}
    for hypotheses in beams_of_engine(
        engine, prompts, beam_width=width, max_tokens=MAX_TOKENS, ignore_eos=True, length_penalty=0.0
    ):
        for ids, _ in hypotheses:
            for token in ids[2:]:
                seen[token] = seen.get(token, 0) + 1
    return tuple(sorted(seen, key=lambda token: -seen[token])[:count])


def check(pair, width, early_stopping, num_eos, penalties, num_prompts):
    engine, model = pair
    prompts = random_prompts([3, 17, 8, 30, 12][:num_prompts], seed=width)
    eos_ids, lengths = frequent_tokens(engine, prompts, width, num_eos), set()
    for length_penalty in penalties:
        params = {"beam_width": width, "length_penalty": length_penalty, "early_stopping": early_stopping}
        ours = beams_of_engine(engine, prompts, max_tokens=MAX_TOKENS, ignore_eos=True, stop_token_ids=eos_ids, **params)
        for prompt, hypotheses in zip(prompts, ours, strict=True):
            theirs = beams_of_transformers(model, prompt, width, length_penalty, early_stopping, eos_ids, MAX_TOKENS)
            assert_same(hypotheses, theirs, (len(prompt), eos_ids, length_penalty))
            lengths |= {len(ids) for ids, _ in hypotheses}
    assert len(lengths) == 1 if num_eos == 0 else len(lengths) > 1, "end tokens were to be reached at different times"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "early_stopping", "num_eos", "penalties"),
    [
        (2, "true", 1, (1.0,)),
        (4, "true", 3, (0.6, -0.5)),
        (2, "false", 3, (2.0,)),
        (4, "false", 1, (1.0, -0.5)),
        (6, "false", 0, (0.0,)),
        (6, "never", 3, (1.0,)),
        (4, "never", 1, (2.0, -0.5)),
    ],
)
def test_hypotheses_and_scores_are_transformers_own(pair, width, early_stopping, num_eos, penalties):
    check(pair, width, early_stopping, num_eos, penalties, num_prompts=2)


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", MODES)
@pytest.mark.parametrize("width", [2, 4, 6])
def test_so_they_are_with_every_length_penalty_and_any_number_of_end_tokens(pair, width, early_stopping):
    for num_eos in (0, 1, 3):
        check(pair, width, early_stopping, num_eos, (0.0, 0.6, 1.0, 2.0, -0.5), num_prompts=5)


def test_memory_too_small_for_all_beams_changes_nothing(tiny_model):
    prompts = random_prompts([20, 9, 33, 14, 25])
    params = {"beam_width": 4, "max_tokens": 24, "ignore_eos": True}
    roomy = Engine(EngineConfig(str(tiny_model("llama")), dtype="float32", kv_memory_bytes=32 << 20, threads=1))
    expected = beams_of_engine(roomy, prompts, **params)
    block_bytes = kv_bytes_per_token(roomy.model_config, 4) * 8
    for swap in ({}, {"preemption": "swap", "swap_memory_bytes": 40 * block_bytes}):
        tight = Engine(
            EngineConfig(
                str(tiny_model("llama")),
                dtype="float32",
                block_size=8,
                kv_memory_bytes=28 * block_bytes,
                max_num_seqs=16,
                max_batch_tokens=32,
                check_integrity=True,
                threads=1,
                **swap,
            )
        )
        assert beams_of_engine(tight, prompts, **params) == expected
        assert tight.stats()["num_preemptions"] > 0
        assert (tight.stats()["num_swapped_blocks"] > 0) == bool(swap)


@pytest.mark.slow
def test_smollm2_on_16_prompts(sample_model, transformers_sample_model, capsys):
    engine = Engine(EngineConfig("smollm2-135m", dtype="float32", check_integrity=True))
    rows = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    texts = sorted((row["prompt"] for row in rows if "prompt" in row), key=len)[:16]
    prompts = [engine.tokenizer.apply_chat_template([{"role": "user", "content": text}]) for text in texts]
    num_tokens, same = 12, 0
    ours = beams_of_engine(engine, prompts, beam_width=4, max_tokens=num_tokens)
    for prompt, hypotheses in zip(prompts, ours, strict=True):
        eos_ids = engine.tokenizer.eos_token_ids
        theirs = beams_of_transformers(transformers_sample_model, prompt, 4, 1.0, "false", eos_ids, num_tokens)
        assert_same(hypotheses, theirs, prompt)
        same += 1
    with capsys.disabled():
        print(f"\nSmolLM2, beam width 4: {same} of 16 prompts have transformers' hypotheses and scores")
