"""Prompts without a cached prefix by torch's FlashAttention, where it is switched on: which rows of a step those are, and that
all around its call is right. The call itself needs a GPU: a stand-in in the reference's terms answers here."""

import inspect

import numpy as np
import pytest
import torch

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cuda.model import prompt_attention
from pagecli.devices.cuda.model.prompt_attention import PromptRows, whole_prompts
from pagecli.engine.engine import Engine

PROMPTS = [list(range(3, 25)), [5, 6, 7], list(range(3, 20)), [9]]


@pytest.mark.parametrize(
    ("contexts", "queries", "found"),
    [
        ([5], [5], (0, 1, 5)),
        ([9, 9, 5, 7, 4], [1, 3, 5, 7, 1], (2, 4, 7)),
        ([3, 3, 9, 5, 5], [3, 3, 2, 5, 5], (3, 5, 5)),  # of two runs the one with more tokens
        ([8, 4], [1, 1], None),
        ([8, 4], [2, 3], None),
        ([1], [1], None),
    ],
)
def test_whole_prompts_are_found_in_a_step(contexts, queries, found):
    starts = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
    expected = found and PromptRows(slice(*found[:2]), slice(int(starts[found[0]]), int(starts[found[1]])), found[2])
    assert whole_prompts(np.array(contexts, dtype=np.int32), starts) == expected


def defined(q, k, v, starts, longest, scale, window):
    """Causal attention in float32, sequence by sequence."""
    out = torch.empty_like(q)
    assert longest == int(starts.diff().max())
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        group = q.shape[1] // k.shape[1]
        keys, values = (x[first:end].float().repeat_interleave(group, dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[first:end].float(), keys) * scale
        distance = torch.arange(end - first)[:, None] - torch.arange(end - first)
        hidden = (distance < 0) | ((distance >= window) if window > 0 else torch.zeros_like(distance, dtype=torch.bool))
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[first:end] = torch.einsum("hqk,khd->qhd", weights, values).to(q.dtype)
    return out


def test_the_call_is_one_that_torch_takes(monkeypatch):
    from torch.nn.attention.varlen import varlen_attn  # seconds, with the compiler that it imports

    calls = []
    monkeypatch.setattr(
        "torch.nn.attention.varlen.varlen_attn",
        lambda *args, **named: calls.append(inspect.signature(varlen_attn).bind(*args, **named).arguments) or args[0],
    )
    q, k = torch.zeros(7, 8, 16, dtype=torch.bfloat16), torch.zeros(7, 2, 16, dtype=torch.bfloat16)
    starts = torch.tensor([0, 3, 7], dtype=torch.int32)
    for window, seen in ((0, (-1, 0)), (4, (3, 0))):
        prompt_attention.varlen(q, k, k, starts, 4, 0.25, window)
        given = calls.pop()
        assert (given["window_size"], given["enable_gqa"], given["num_splits"]) == (seen, True, 1)
        assert (given["scale"], given["max_q"], given["max_k"]) == (0.25, 4, 4)


def run(path, **changes):
    """Token ids and log probabilities of the prompts' rows, which steps of 24 tokens cut and mix with decodes."""
    settings = {"dtype": "bfloat16", "max_num_seqs": 4, "max_batch_tokens": 24, "kv_memory_bytes": 2**21, "max_model_len": 64}
    engine = Engine(EngineConfig(str(path), check_integrity=True, device="cuda", **(settings | changes)))
    for i, prompt in enumerate(PROMPTS):
        engine.add_request(i, prompt, SamplingParams(max_tokens=2, ignore_eos=True, logprobs=0))
    found = {}
    while engine.has_unfinished():
        found |= {output.request_id: output.sequences[0].logprobs for output in engine.step()}
    return [position.logprob for i in range(len(PROMPTS)) for position in found[i][:1]]


@pytest.mark.cuda
@pytest.mark.skipif("__import__('gpu_tensors').EMULATED", reason="torch's call needs a GPU")
@pytest.mark.parametrize("window", [0, 5])
def test_torchs_call_computes_the_definition_to_the_same_bits_in_any_batch(window):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(90, heads, 64, generator=generator).bfloat16().cuda() for heads in (8, 2, 2))
    starts = torch.tensor([0, 2, 40, 90], dtype=torch.int32, device="cuda")
    found = prompt_attention.varlen(q, k, v, starts, 50, 0.125, window)
    expected = defined(q.cpu(), k.cpu(), v.cpu(), starts.cpu(), 50, 0.125, window)
    assert torch.allclose(found.cpu().float(), expected.float(), atol=2e-2)
    alone = prompt_attention.varlen(q[2:40], k[2:40], v[2:40], starts[1:3] - 2, 38, 0.125, window)
    assert torch.equal(found[2:40], alone)


@pytest.mark.cuda
@pytest.mark.skipif("not __import__('gpu_tensors').EMULATED", reason="the stand-in computes on the CPU")
@pytest.mark.parametrize(
    ("name", "kv_dtype"), [("llama", "auto"), ("llama", "fp8"), ("opt", "auto"), ("mistral", "auto"), ("qwen3", "auto")]
)
def test_with_it_rows_are_what_they_are_without(tiny_model, monkeypatch, name, kv_dtype):
    expected = run(tiny_model(name), kv_dtype=kv_dtype)
    calls = []

    def stand_in(*args):
        calls.append(len(args[0]))
        return defined(*args)

    monkeypatch.setattr(prompt_attention, "varlen", stand_in)
    monkeypatch.setenv(prompt_attention.SWITCH, "1")
    assert run(tiny_model(name), kv_dtype=kv_dtype) == pytest.approx(expected, abs=0.06)
    assert max(calls) >= len(PROMPTS[0])
    if (name, kv_dtype) != ("llama", "auto"):
        return
    monkeypatch.setattr(prompt_attention, "varlen", lambda *args: torch.zeros_like(args[0]))
    assert run(tiny_model(name), kv_dtype=kv_dtype) != pytest.approx(expected, abs=0.06)  # its answer is what counts
