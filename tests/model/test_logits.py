"""Logits through the paged cache equal transformers', whatever the blocks, the batch and the chunks."""

import functools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from paged_steps import PagedSteps, relative_error
from tiny_models import TINY_MODELS, TINY_VOCAB_SIZE

from pagecli.devices.base import load_model
from pagecli.model.registry import resolve_model

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "int8": 5e-2}
KV_DTYPE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.bfloat16}


def random_prompts(lengths: list[int]) -> dict[int, list[int]]:
    draw = random.Random(1)
    return {i: [draw.randrange(TINY_VOCAB_SIZE) for _ in range(length)] for i, length in enumerate(lengths)}


def transformers_logits(directory: Path, prompts: dict[int, list[int]]) -> dict[int, torch.Tensor]:
    return _computed_once(directory, tuple(map(tuple, prompts.values())))


@functools.cache
def _computed_once(directory: Path, prompts: tuple[tuple[int, ...], ...]) -> dict[int, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        return {i: model(torch.tensor([tokens])).logits[0] for i, tokens in enumerate(prompts)}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", TINY_MODELS)
def test_prompts_chunks_and_decode_steps_equal_transformers(tiny_model, name, dtype):
    directory = tiny_model(name)
    prompts = random_prompts([1, 7, 8, 33, 70])
    expected = transformers_logits(directory, prompts)
    model = load_model(resolve_model(str(directory)), dtype, max_batch_tokens=256)

    whole = PagedSteps(model, KV_DTYPE[dtype]).step(prompts)
    for i in prompts:
        assert relative_error(whole[i], expected[i]) <= TOLERANCE[dtype]

    steps, found = PagedSteps(model, KV_DTYPE[dtype]), {i: [] for i in prompts}
    chunk_sizes, done = [1, 5, 17], dict.fromkeys(prompts, 0)
    while any(done[i] < len(prompts[i]) for i in prompts):
        chunks = {}
        for i in prompts:  # a mix of single tokens and chunks, no two steps alike
            size = chunk_sizes[(done[i] + i) % len(chunk_sizes)]
            if tokens := prompts[i][done[i] : done[i] + size]:
                chunks[i] = tokens
                done[i] += len(tokens)
        for i, logits in steps.step(chunks).items():
            found[i].append(logits)
    for i in prompts:
        assert relative_error(torch.cat(found[i]), expected[i]) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["opt", "qwen3"])
def test_logits_come_only_for_the_rows_asked_for(tiny_model, name):
    model = load_model(resolve_model(str(tiny_model(name))), "float32", max_batch_tokens=64)
    prompts = random_prompts([5, 9, 20])
    every, last = PagedSteps(model).step(prompts), PagedSteps(model).step(prompts, wanted="last")
    for i in prompts:
        assert torch.equal(last[i][0], every[i][-1])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("name", ["opt-post-norm", "llama"])
def test_a_rows_logits_do_not_depend_on_its_batch(tiny_model, name, dtype):
    model = load_model(resolve_model(str(tiny_model(name))), dtype, max_batch_tokens=64)
    prompts = random_prompts([12, 31, 3])
    together = PagedSteps(model).step(prompts)
    for i, tokens in prompts.items():
        alone = PagedSteps(model).step({i: tokens})
        assert torch.equal(alone[i], together[i])


@pytest.mark.parametrize("name", TINY_MODELS)
def test_recorded_layers_give_the_bits_that_layers_called_from_python_give(tiny_model, name):
    model = load_model(resolve_model(str(tiny_model(name))), "float32", max_batch_tokens=64)
    prompts = random_prompts([12, 31, 3])
    chunks = [
        {0: prompts[0][:9], 2: prompts[2][:2]},
        {1: prompts[1][:30], 0: prompts[0][9:]},
        {1: prompts[1][30:]},
        {2: prompts[2][2:]},
    ]
    recorded, other, called = (PagedSteps(model) for _ in range(3))
    for chunk in chunks:
        found = recorded.step(chunk)
        other.step({i: tokens[::-1] for i, tokens in chunk.items()})  # a second cache between two steps of the first
        model.record_layers = False
        expected = called.step(chunk)
        model.record_layers = True
        for i in chunk:
            assert torch.equal(found[i], expected[i])


def test_positions_beyond_the_first_rotary_table_are_exact(tiny_model, monkeypatch):
    monkeypatch.setattr("pagecli.devices.rotary_table._FIRST_POSITIONS", 16)
    directory, prompts = tiny_model("llama"), random_prompts([200])
    model = load_model(resolve_model(str(directory)), "float32", max_batch_tokens=256)
    steps = PagedSteps(model)
    found = torch.cat([steps.step({0: prompts[0][:10]})[0], steps.step({0: prompts[0][10:]})[0]])
    assert relative_error(found, transformers_logits(directory, prompts)[0]) <= 1e-4


@pytest.mark.parametrize("name", ["opt", "opt-post-norm", "qwen2"])
def test_a_step_may_want_no_logits_at_all(tiny_model, name):
    """Every sequence of the step is in the middle of its prompt."""
    directory, prompts = tiny_model(name), random_prompts([20, 9])
    steps = PagedSteps(load_model(resolve_model(str(directory)), "float32", max_batch_tokens=64))
    assert steps.step({i: tokens[:-1] for i, tokens in prompts.items()}, wanted="none") == {}
    last = steps.step({i: tokens[-1:] for i, tokens in prompts.items()})
    for i, expected in transformers_logits(directory, prompts).items():
        assert relative_error(last[i][0], expected[-1]) <= 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_most_likely_tokens_are_those_of_the_logits(tiny_model, name, dtype):
    model = load_model(resolve_model(str(tiny_model(name))), dtype, max_batch_tokens=64)
    steps = PagedSteps(model)
    prompts = random_prompts([9, 1, 20, 14])
    inputs = steps.inputs(prompts, "every")
    token_ids = model.most_likely(inputs, steps.kv)
    assert token_ids.dtype == np.int64
    assert np.array_equal(token_ids, model.forward(inputs, steps.kv).argmax(axis=-1))
    assert model.most_likely(steps.inputs({9: [3, 4]}, "none"), steps.kv).shape == (0,)
