"""A NaN in any weight of a mixture of experts fails the rows that it reaches, those routed there, and no others."""

import functools
import shutil

import pytest
import tiny_models
import torch
from checkpoints import PROMPTS, VOCAB_SIZE
from model.paged_steps import PagedSteps
from safetensors.torch import load_file, save_file
from test_mixture import FAMILIES

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.base import load_model
from pagecli.engine.engine import Engine
from pagecli.errors import ErrorCode
from pagecli.model.registry import resolve_model

LAYER = "model.layers.1"
# Family -> places: (tensor, index).
PLACES = {
    "Mixtral": [
        ("block_sparse_moe.experts.3.w1.weight", (7, 5)),
        ("block_sparse_moe.experts.3.w3.weight", (7, 5)),
        ("block_sparse_moe.experts.3.w2.weight", (5, 7)),
        ("block_sparse_moe.gate.weight", (3, 5)),
    ],
    "Qwen2Moe": [
        ("mlp.experts.2.up_proj.weight", (7, 5)),
        ("mlp.shared_expert.gate_proj.weight", (7, 5)),
        ("mlp.shared_expert.down_proj.weight", (5, 7)),
        ("mlp.shared_expert_gate.weight", (0, 5)),
    ],
    "GptOss": [
        ("mlp.experts.gate_up_proj", (4, 5, 6)),  # a gate, which is clamped
        ("mlp.experts.gate_up_proj", (4, 5, 7)),
        ("mlp.experts.gate_up_proj_bias", (4, 6)),
        ("mlp.experts.down_proj", (4, 5, 6)),
        ("mlp.experts.down_proj_bias", (4, 6)),
        ("mlp.router.weight", (4, 6)),
        ("mlp.router.bias", (4,)),
        ("self_attn.sinks", (2,)),
    ],
}
ROUTERS = ("mlp.router", "block_sparse_moe.gate")
CASES = [
    pytest.param(family, *place, dtype, marks=() if dtype == "float32" or family == "Mixtral" else pytest.mark.slow)
    for family, places in PLACES.items()
    for place in places
    for dtype in ("float32", "bfloat16", "int8")
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(family) -> directory of its tiny model."""
    found = {}

    def make(name):
        if name not in found:
            found[name] = tmp_path_factory.mktemp(name)
            next(family for family in FAMILIES if family.name == name).make(found[name], {})
        return found[name]

    return make


@pytest.fixture(scope="module")
def clean(made):
    """clean(family, dtype) -> logits of the model as it was made."""
    return functools.cache(lambda family, dtype: logits(made(family), dtype))


def changed(directory, where, name, index, value):
    """A copy of the model in which that number is another."""
    shutil.copytree(directory, where)
    tensors = load_file(where / "model.safetensors")
    tensors[f"{LAYER}.{name}"][index] = value
    save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
    return where


def logits(directory, dtype, device="cpu"):
    """Of every token, rows of a sequence each together in one step."""
    return torch.cat(list(PagedSteps(load_model(resolve_model(str(directory)), dtype, 64, device)).step(PROMPTS).values()))


@pytest.mark.parametrize(("family", "name", "index", "dtype"), CASES, ids=str)
def test_the_rows_that_a_weight_reaches_are_those_that_its_nan_fails(made, clean, tmp_path, family, name, index, dtype):
    """Those whose logits another number there changes; of a router, which compares all experts' logits, every row."""
    other, failed = (
        logits(changed(made(family), tmp_path / kind, name, index, value), dtype)
        for kind, value in (("other", -3.0), ("nan", float("nan")))
    )
    reached = (other != clean(family, dtype)).any(-1)
    assert reached.any()
    if name.startswith(ROUTERS):
        reached[:] = True
    assert torch.equal(~failed.isfinite().all(-1), reached)
    assert torch.equal(failed[~reached], clean(family, dtype)[~reached])


def test_the_engine_gives_these_rows_an_error_and_the_others_their_text(made, tmp_path):
    path = made("Mixtral")
    if not (path / "tokenizer.json").exists():
        tiny_models.make_tokenizer().save_pretrained(path)
    broken = changed(path, tmp_path / "broken", *PLACES["Mixtral"][0][:2], float("nan"))
    prompts = [[token] for token in range(2, VOCAB_SIZE, 3)]
    whole, damaged = (outputs(directory, prompts) for directory in (path, broken))
    failed = {row for row, output in damaged.items() if output.error_code is not None}
    assert {damaged[row].error_code for row in failed} == {ErrorCode.LOGITS_NOT_FINITE}
    assert 0 < len(failed) < len(prompts)
    for row in damaged.keys() - failed:
        assert damaged[row].sequences[0].token_ids == whole[row].sequences[0].token_ids


def outputs(directory, prompts):
    engine = Engine(EngineConfig(str(directory), dtype="float32", max_num_seqs=16, check_integrity=True))
    for row, prompt in enumerate(prompts):
        engine.add_request(row, prompt, SamplingParams(max_tokens=1, ignore_eos=True))
    found = {}
    while engine.has_unfinished():
        found |= {output.request_id: output for output in engine.step()}
    return found
