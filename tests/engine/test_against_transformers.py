"""The engine against transformers, token by token: greedy decoding in float32, many prompts in one mixed batch."""

import json
from pathlib import Path

import pytest
import torch
from nightly import NIGHTLY
from tiny_models import TINY_MODELS

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.memory import kv_bytes_per_token
from pagecli.engine.engine import Engine

PROMPTS = Path(__file__).resolve().parents[2] / "sample_data" / "prompts.jsonl"
TIE = 1e-4  # logits this close may come out in either order


def run_engine(engine, prompts, params):
    """Output token ids of each prompt, all run together."""
    for i, prompt in enumerate(prompts):
        engine.add_request(i, prompt, params)
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output.sequences[0] for output in engine.step()}
    return [done[i] for i in range(len(prompts))]


def random_prompts(lengths, vocab_size):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, vocab_size, (length,), generator=generator).tolist() for length in lengths]


def greedy_of_transformers(model, prompt, max_tokens, eos_ids):
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=list(eos_ids) or None,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def is_tie(model, prompt, ours, theirs):
    """Whether the first difference stands where transformers' two top logits lie within TIE."""
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + theirs[:at]])).logits[0, -1]
    return float(logits.topk(2).values.diff().abs()) <= TIE


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_MODELS)
def test_tiny_models_decode_as_transformers_does(tiny_model, name):
    from transformers import AutoModelForCausalLM

    path = tiny_model(name)
    engine = Engine(EngineConfig(str(path), dtype="float32", max_num_seqs=8, max_batch_tokens=24, check_integrity=True))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    prompts = random_prompts([1, 5, 17, 40, 3, 64, 16, 33, 2, 9], 340)
    outputs = run_engine(engine, prompts, SamplingParams(max_tokens=24))
    for prompt, output in zip(prompts, outputs, strict=True):
        theirs = greedy_of_transformers(model, prompt, 24, engine.tokenizer.eos_token_ids)
        assert output.token_ids == theirs or is_tie(model, prompt, output.token_ids, theirs)
        assert output.finish_reason == ("stop" if theirs[-1] in engine.tokenizer.eos_token_ids else "length")


def test_a_cache_too_small_for_all_preempts_and_changes_no_token(tiny_model):
    path = str(tiny_model("llama"))
    prompts = random_prompts([20, 31, 8, 27, 12, 40], 340)
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    roomy = Engine(EngineConfig(path, dtype="float32", kv_memory_bytes=64 << 20, max_num_seqs=6, max_batch_tokens=64))
    bytes_per_block = kv_bytes_per_token(roomy.model_config, 4) * 16
    tight = Engine(
        EngineConfig(
            path,
            dtype="float32",
            kv_memory_bytes=8 * bytes_per_block,
            max_num_seqs=6,
            max_batch_tokens=64,
            check_integrity=True,
        )
    )
    expected = [o.token_ids for o in run_engine(roomy, prompts, params)]
    assert [o.token_ids for o in run_engine(tight, prompts, params)] == expected
    assert tight.stats()["num_preemptions"] > 0
    assert roomy.stats()["num_preemptions"] == 0


def sample_conversations(engine):
    """The sample file's 64 prompts as token ids, with the chat template."""
    rows = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    messages = [row.get("messages") or [{"role": "user", "content": row["prompt"]}] for row in rows]
    return [engine.tokenizer.apply_chat_template(m) for m in messages]


@pytest.mark.slow
def test_smollm2_decodes_real_prompts_as_transformers_does(sample_model, transformers_sample_model, capsys):
    engine = Engine(EngineConfig("smollm2-135m", dtype="float32", check_integrity=True))
    prompts = sample_conversations(engine)
    assert len(prompts) == 64
    prompts = prompts if NIGHTLY else prompts[::4]
    num_tokens = 16
    outputs = run_engine(engine, prompts, SamplingParams(max_tokens=num_tokens))
    ties = []
    for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        theirs = greedy_of_transformers(transformers_sample_model, prompt, num_tokens, engine.tokenizer.eos_token_ids)
        if output.token_ids != theirs:
            assert is_tie(transformers_sample_model, prompt, output.token_ids, theirs), f"prompt {i} differs"
            ties.append(i)
    with capsys.disabled():
        same = len(prompts) - len(ties)
        print(f"\nSmolLM2, {len(prompts)} prompts: {same} identical, {len(ties)} differ after a tie within {TIE}: {ties}")
    assert len(ties) <= 0.01 * len(prompts)
