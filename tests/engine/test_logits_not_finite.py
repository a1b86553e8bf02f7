"""Weights that make logits NaN or infinite give error rows, however the row's tokens are chosen; the rows beside stay good."""

import shutil

import pytest
import torch
from asynchronous_runner import AsynchronousRunner
from safetensors.torch import load_file, save_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.errors import ErrorCode

SPOILED_ID = 77  # the token whose embedding is not finite
KINDS = {
    "greedy": {},
    "sampled": {"temperature": 0.9},
    "filtered": {"temperature": 1.2, "top_k": 20, "top_p": 0.8, "min_p": 0.01},
    "samples": {"temperature": 1.0, "n": 3},
    "best of": {"temperature": 1.0, "best_of": 3},
    "beams": {"beam_width": 3, "n": 2},
    "log probabilities": {"logprobs": 2},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    "min_tokens": {"min_tokens": 2},
}


def spoiled(source, directory, change):
    """A copy of the model whose weights `change` changes in place."""
    shutil.copytree(source, directory)
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def run(path, rows, **config):
    """Outputs of (prompt, parameters), by row."""
    defaults = {"dtype": "float32", "kv_memory_bytes": 16 << 20, "threads": 1, "check_integrity": True}
    engine = Engine(EngineConfig(str(path), **(defaults | config)))
    for i, (prompt, params) in enumerate(rows):
        engine.add_request(i, prompt, SamplingParams(max_tokens=4, ignore_eos=True, **params), row_key=prompt[-1])
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output for output in engine.step()}
    return [done[i] for i in range(len(rows))]


def is_refused(output):
    return output.error_code is ErrorCode.LOGITS_NOT_FINITE and "not finite" in output.error and output.sequences == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_kind_of_row_ends_as_an_error_and_its_neighbours_do_not_notice(tiny_model, tmp_path, dtype, kv_dtype, value):
    def change(tensors):
        tensors["model.embed_tokens.weight"][SPOILED_ID] = value

    path = spoiled(tiny_model("llama"), tmp_path / "model", change)
    good = [([5, 6, 7 + i], params) for i, params in enumerate(KINDS.values())]
    bad = [([5, SPOILED_ID, 7 + i], params) for i, params in enumerate(KINDS.values())]
    mixed = [row for pair in zip(good, bad, strict=True) for row in pair]
    outputs = run(path, mixed, dtype=dtype, kv_dtype=kv_dtype)
    assert [is_refused(output) for output in outputs[1::2]] == [True] * len(KINDS)
    assert [o.sequences for o in outputs[0::2]] == [o.sequences for o in run(path, good, dtype=dtype, kv_dtype=kv_dtype)]


@pytest.mark.slow
def test_a_weight_that_is_not_a_number_is_found_wherever_it_stands(tiny_model, tmp_path):
    names = [n for n in load_file(tiny_model("llama") / "model.safetensors") if "layers.0" in n or "layers" not in n]
    for number, name in enumerate(names):

        def change(tensors, name=name):
            tensors[name].view(-1)[-1 if "embed" not in name else slice(None)] = float("nan")

        path = spoiled(tiny_model("llama"), tmp_path / str(number), change)
        for dtype in ("float32", "int8"):
            assert all(is_refused(o) for o in run(path, [([5, 6, 7], {}), ([5, 8], {"temperature": 1.0})], dtype=dtype)), name


def test_greedy_rows_alone_whose_logits_are_never_written(tiny_model, tmp_path):
    def change(tensors):
        tensors["lm_head.weight"][3, 1] = float("nan")

    path = spoiled(tiny_model("llama"), tmp_path / "model", change)
    assert all(is_refused(output) for output in run(path, [([5, 6], {}), ([7], {})]))


def test_a_step_that_was_launched_meanwhile_is_dropped(tiny_model, tmp_path, monkeypatch):
    """As on a GPU: the next step is fed by the one whose logits turn out not to be finite."""
    monkeypatch.setattr("pagecli.devices.cpu.device.ModelRunner", AsynchronousRunner)

    def change(tensors):
        tensors["model.embed_tokens.weight"][SPOILED_ID] = float("nan")

    path = spoiled(tiny_model("llama"), tmp_path / "model", change)
    rows = [([5, SPOILED_ID], {}), ([5, 6], {}), ([SPOILED_ID], {"temperature": 1.0}), ([8], {"temperature": 1.0})]
    outputs = run(path, rows)
    assert [is_refused(output) for output in outputs] == [True, False, True, False]
    assert all(len(s.token_ids) == 4 for output in outputs for s in output.sequences)


def test_candidates_of_a_beam_are_finite_or_there_are_none(tiny_model):
    from pagecli.core.step_plan import BeamCandidates, SampleSpec
    from pagecli.devices.cpu import sampler

    spec = SampleSpec(SamplingParams(beam_width=2), 0, 0, [1, 2], 1, (), num_candidates=5)
    logits = torch.full((4, 40), float("-inf"))
    logits[0, [3, 9]] = torch.tensor([1.0, 2.0])
    logits[1, 3] = float("nan")
    logits[2, 3] = float("inf")
    first, *others = sampler.choose(logits.numpy(), [(spec,)] * 4)
    assert first.token_ids == [9, 3]
    assert others == [BeamCandidates([], [])] * 3
