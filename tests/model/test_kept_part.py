"""What stays quantized of a checkpoint is known from its config.json: for plans, the check before loading, and models show."""

import json
from dataclasses import replace

import pytest

from pagecli.api.plan import profile_plan
from pagecli.cli.app import main
from pagecli.devices.memory import MemoryNeeds, weight_bytes_of
from pagecli.errors import ModelError
from pagecli.model.presets import find_preset
from pagecli.model.readers.hf_config import from_hf_config
from pagecli.model.registry import resolve_model
from pagecli.model.weights.kept import kept_part

MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


@pytest.fixture
def config_of(tmp_path):
    """config_of(name, quantization_config) -> a config.json alone."""

    def write(name, quantization):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(find_preset(name).config | {"quantization_config": quantization}))
        return str(path)

    return write


def test_gpt_oss_fits_where_its_experts_stay_as_they_are(config_of):
    source = resolve_model(config_of("gpt-oss-20b", MXFP4), "dummy")
    assert source.quantized.num_elements == 24 * 32 * 3 * 2880 * 2880
    assert source.quantized.num_bytes == source.quantized.num_elements * (4 + 16 / 32) / 8
    kept, whole = (weight_bytes_of(replace(source, keep_quantized=keep), 2) / 2**30 for keep in (True, False))
    assert kept == pytest.approx(13.4, abs=0.1)
    assert whole == pytest.approx(39.0, abs=0.1)


@pytest.mark.parametrize(
    ("left_out", "share"),
    [
        ([], 1.0),
        (["model.layers.0.mlp"], 35 / 36),
        (["model.layers.1"], 35 / 36),  # not 10 to 19
        (["mlp.down_proj"], 0.5),
        (["model.layers.*.mlp"], 0.0),
        (["["], 1.0),  # no expression
    ],
)
def test_modules_that_are_left_out_are_not_counted(left_out, share):
    """Of Qwen3-8B's MLPs, whose down projections are made as large as gate and up together."""
    config = from_hf_config(find_preset("qwen3-8b").config | {"quantization_config": GPTQ | {"ignored_layers": left_out}}, "it")
    attention = 36 * (4096 * 6144 + 4096 * 4096)
    of_mlp = {"model.layers.1": 4096 * 6144 + 4096 * 4096}.get(left_out[0] if left_out else "", 0)
    mlp = 36 * 3 * 4096 * 12288
    found = kept_part(config).num_elements
    expected = mlp * (2 / 3 if share == 0.5 else share) + attention - of_mlp
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "quantization",
    [
        GPTQ | {"desc_act": True},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
    ],
)
def test_what_is_dequantized_at_load_is_planned_so(config_of, quantization):
    assert resolve_model(config_of("qwen3-8b", quantization), "dummy").quantized is None


@pytest.mark.parametrize(("block", "group"), [({"weight_block_size": [128, 128]}, 128), ({}, 128)])
def test_float8_is_planned_with_a_float_for_each_row_of_a_group(config_of, block, group):
    part = resolve_model(config_of("qwen3-8b", {"quant_method": "fp8"} | block), "dummy").quantized
    assert part.num_bytes == part.num_elements * (1 + 4 / group)


def test_profile_and_models_show_say_it(config_of, capsys):
    path = config_of("qwen3-8b", GPTQ)
    source = replace(resolve_model(path, "dummy"), keep_quantized=True)
    plan = profile_plan(path, dtype="float32")["plan"]
    on_gpu = weight_bytes_of(replace(source, keep_quantized=False), 2)  # where this machine is too small
    assert plan["weights_bytes"] in (weight_bytes_of(source, 4), on_gpu)
    with pytest.raises(SystemExit):
        main(["models", "show", path, "--json"])
    about = json.loads(capsys.readouterr().out)
    assert (about["quantized"], about["kept_bytes"]) == ("gptq, 4 bits", weight_bytes_of(source, 2))


def test_what_would_fit_if_it_stayed_quantized_is_said_with_the_flag():
    needs = MemoryNeeds(weights=16 << 30, activations=0, logits=0, kv=0)
    with pytest.raises(ModelError) as refused:
        needs.check_fit("it", 8 << 30, 2, kept_weights=5 << 30)
    assert refused.value.hint == "use --quantization keep"
