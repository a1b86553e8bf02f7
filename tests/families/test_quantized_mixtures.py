"""Experts that stay quantized in memory compute what their numbers say: of GGUF files, and gpt-oss's as it is published."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from checkpoints import difference, expected_logprobs, found_logprobs
from gguf_writer import write_gguf
from model.paged_steps import PagedSteps
from safetensors.torch import load_file, save_file
from test_gguf_layouts import LAYOUTS, TINY

from pagecli.devices import memory
from pagecli.devices.base import load_model
from pagecli.errors import ModelError
from pagecli.model.build_program import build
from pagecli.model.registry import resolve_model
from pagecli.model.weights.gguf_blocks import BLOCK_TYPES
from pagecli.model.weights.packed.mxfp4 import E2M1
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.roofline import StepTime

_SIZES = {"Mixtral": {}, "GptOss": {}, "Qwen3Moe": {"moe_intermediate_size": 64}}  # whole groups of columns


def experts_of(source, dtype="float32"):
    """(the model, its experts' packed weights)."""
    model = load_model(source, dtype, 64, "cpu")
    return model, [model.weights.experts(weight) for weight in model.program.weights() if weight.experts and weight.columns]


_KINDS = ("Q4_0", "GptOss"), ("Q8_0", "Mixtral"), ("MXFP4", "Qwen3Moe")  # each kind and each family once are quick
_CASES = [(kind, name) for kind, _ in _KINDS for name in _SIZES]


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(*case, marks=() if case in _KINDS else pytest.mark.slow) for case in _CASES]
)
def test_experts_of_gguf_files(tmp_path, kind, name):
    layout, changes = LAYOUTS[name]
    model = TINY[name].make(tmp_path, changes | _SIZES[name])
    model.name_or_path = str(tmp_path)
    plain, quantized = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType[kind]
    layout = replace(layout, quantized={"blk.1.ffn_down_exps.weight": plain, "_exps.weight": quantized})
    source = resolve_model(str(write_gguf(tmp_path / "tiny.gguf", model, layout)))
    expected = found_logprobs(source, "cpu")
    kept = replace(source, keep_quantized=True)
    assert difference(found_logprobs(kept, "cpu"), expected) <= 1e-5
    loaded, experts = experts_of(kept)
    assert [packed.is_quantized for packed in experts].count(False) == 1
    assert memory.weight_bytes_of(kept, 4) == pytest.approx(loaded.weight_bytes, rel=0.02)


def as_published(directory):
    """A tiny gpt-oss with its experts in MXFP4, as openai/gpt-oss-20b has them; and a model of those numbers."""
    model = TINY["GptOss"].make(directory, {"intermediate_size": 96, "hidden_size": 64})
    generator, tensors = torch.Generator().manual_seed(2), load_file(directory / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                continue
            experts, inputs, outputs = parameter.shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
            scales = torch.randint(121, 125, (experts, outputs, inputs // 32), dtype=torch.uint8, generator=generator)
            numbers = torch.tensor(E2M1)[torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).int()]
            values = (numbers * torch.exp2(scales.float() - 127)[..., None]).flatten(2)
            parameter.copy_(values.transpose(1, 2))
            del tensors[name]
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    left_out = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": left_out}
    (directory / "config.json").write_text(json.dumps(config))
    return model


def test_blocks_whose_exponents_halves_do_not_hold_are_dequantized():
    blocks = np.zeros((3, 2, 17), np.uint8)
    blocks[..., 0], blocks[..., 1:] = 120, 0x12
    known = BLOCK_TYPES[gguf.GGMLQuantizationType.MXFP4]
    for exponent, number, can_stay in ((92, 1, True), (131, 1, True), (91, 1, False), (132, 1, False), (0, 0x80, True)):
        blocks[1, 1, 0], blocks[1, 1, 1:] = exponent, number
        rows = blocks.reshape(3, -1)
        assert known.can_stay(rows) is can_stay
        if can_stay:
            assert np.array_equal(
                known.take_apart(rows).dequantized(), gguf.quants.dequantize(rows, gguf.GGMLQuantizationType.MXFP4)
            )


@pytest.mark.parametrize("keep", [False, True])
def test_gpt_oss_as_it_is_published(tmp_path, keep):
    expected = expected_logprobs(as_published(tmp_path))
    source = replace(resolve_model(str(tmp_path)), keep_quantized=keep)
    assert difference(found_logprobs(source, "cpu"), expected) <= 2e-5
    _, experts = experts_of(source)
    assert [packed.is_quantized for packed in experts] == [keep] * len(experts)
    if keep:
        _, whole = experts_of(replace(source, keep_quantized=False))
        assert sum(packed.nbytes for packed in experts) < 4.5 / 32 * sum(packed.nbytes for packed in whole) * 1.05
    else:
        assert difference(found_logprobs(source, "reference"), expected) <= 2e-5


def test_a_row_of_experts_that_stay_quantized_has_the_same_bits_in_any_batch(tmp_path):
    as_published(tmp_path)
    for dtype in ("float32", "bfloat16"):
        model, _ = experts_of(replace(resolve_model(str(tmp_path)), keep_quantized=True), dtype)
        prompts = {i: list(range(i, i + length)) for i, length in enumerate((1, 7, 30))}
        together = PagedSteps(model).step(prompts)
        for i, tokens in prompts.items():
            assert torch.equal(PagedSteps(model).step({i: tokens})[i], together[i])


def test_fewer_experts_in_the_file_than_in_the_config_are_refused(tmp_path):
    as_published(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_local_experts": 7}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for keep in (False, True):
        with pytest.raises(ModelError, match=r"has shape \[8, .*the config asks for \[7, "):
            experts_of(replace(resolve_model(str(tmp_path)), keep_quantized=keep))


def test_a_planned_step_reads_experts_as_they_stay(tmp_path):
    """A row reads its chosen experts alone, many rows all of them: with what else a step reads, the bytes loaded."""
    as_published(tmp_path)
    source = replace(resolve_model(str(tmp_path)), keep_quantized=True)
    loaded, _ = experts_of(source)
    config, device = source.config, replace(find_gpu("h200"), is_reached=True, half_flops=1e30, single_flops=1e30)
    step = StepTime(config, device, 4, kept=memory.kept_of(source))
    one, many = (step.seconds(rows, rows, -rows) * device.bandwidth for rows in (1, 10**6))
    table = 4 * config.vocab_size * config.hidden_size
    assert many == pytest.approx(loaded.weight_bytes - table, rel=0.03)
    biases = build(config).num_expert_parameters - memory.kept_of(source).num_elements
    others = 1 - config.experts.chosen / config.experts.num
    assert many - one == pytest.approx((memory.kept_of(source).num_bytes + 4 * biases) * others, rel=1e-3)
