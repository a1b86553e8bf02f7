"""`pagecli models` lists every named model with its sizes, and shows the operations of any model."""

import json
from dataclasses import replace

import pytest

from pagecli.cli import models as models_command
from pagecli.cli.app import main
from pagecli.cli.models import NamedModel, table_lines
from pagecli.devices.limits import check_computed, devices_for
from pagecli.errors import ModelError
from pagecli.model.build_program import build
from pagecli.model.presets import find_preset, preset_names
from pagecli.model.readers.hf_config import from_hf_config

SIZES = {"float32": 1512 << 30, "bfloat16": 756 << 30, "int8": 402 << 30, "fp8": 378 << 30}


@pytest.fixture
def models(capsys, monkeypatch, tmp_path):
    """models(*words) -> (exit code, stdout, stderr), with an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["models", *words])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.mark.slow
def test_every_named_model_is_listed_with_its_sizes(models):
    code, out, _ = models("--json")
    found = {model["name"]: model for model in json.loads(out)}
    assert (code, list(found)) == (0, preset_names())
    for name, model in found.items():
        config = from_hf_config(find_preset(name).config, name)
        assert model["parameters"] == build(config).num_parameters
        assert model["context"] == config.max_positions
        sizes = model["bytes"]
        assert sizes["float32"] == 4 * model["parameters"] > sizes["bfloat16"] > sizes["int8"] > sizes["fp8"]
        assert model["devices"] == devices_for(config)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("smollm2", ["smollm2-135m", "smollm2-360m", "smollm2-1.7b"]),
        ("SmolLM2-135M", ["smollm2-135m"]),
        ("qwen3-?.?b", ["qwen3-0.6b", "qwen3-1.7b"]),
        ("facebook/opt-1*b", ["opt-1.3b", "opt-13b"]),
    ],
)
def test_a_pattern_is_a_part_of_a_name_or_a_wildcard(models, pattern, names):
    code, out, _ = models(pattern)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["name", *names]


def test_a_pattern_that_matches_nothing_names_what_is_near(models):
    code, out, err = models("qwen3-6b")
    assert (code, out) == (2, "")
    assert "error: no named model is called 'qwen3-6b'" in err
    assert "qwen3-0.6b" in err


@pytest.mark.parametrize("words", [("show",), ("show", "a", "b"), ("a", "b")])
def test_words_too_many_or_too_few_are_wrong_usage(models, words):
    assert models(*words)[0] == 2


@pytest.mark.parametrize(
    ("name", "is_chat"),
    [("smollm2-135m", True), ("opt-125m", False), ("qwen3-8b", True), ("qwen2.5-7b", False), ("llama-3.3-70b", True)],
)
def test_chat_models_are_told_from_base_models(name, is_chat):
    assert find_preset(name).is_chat == is_chat


@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "smollm2-135m-instruct", "SMOLLM2-135M"])
def test_a_name_is_also_that_of_the_repository_in_any_case(name):
    assert find_preset(name).name == "smollm2-135m"


def test_a_model_is_cached_once_a_revision_has_its_config_and_weights(models, tmp_path):
    def cached() -> bool:
        return json.loads(models("opt-125m", "--json")[1])[0]["cached"]

    revision = tmp_path / "hub/models--facebook--opt-125m/snapshots/abc"
    assert not cached()
    revision.mkdir(parents=True)
    (revision / "config.json").write_text("{}")
    assert not cached()
    (revision / "pytorch_model.bin").symlink_to(tmp_path / "blob that is not there")
    assert not cached()
    (tmp_path / "blob that is not there").write_bytes(b"")
    assert cached()


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_show_prints_the_program_that_devices_run(models, tiny_model, family):
    path = str(tiny_model(family))
    code, out, _ = models("show", path)
    assert code == 0
    config = from_hf_config(json.loads((tiny_model(family) / "config.json").read_text()), path)
    assert str(build(config)) in out
    found = json.loads(models("show", path, "--json")[1])
    assert found["operations"] == str(build(config)).splitlines()
    assert (found["layers"], found["parameters"]) == (config.num_layers, build(config).num_parameters)


def test_show_of_no_model_says_so(models):
    code, _, err = models("show", "no-such-model")
    assert code == 4
    assert "no model 'no-such-model'" in err


@pytest.mark.parametrize(
    ("head_dim", "devices"),
    [(4, []), (16, ["cpu", "cuda"]), (32, ["cpu", "cuda"]), (100, ["cpu"]), (256, ["cpu", "cuda"]), (512, [])],
)
def test_devices_are_those_that_do_not_refuse_the_model(head_dim, devices):
    config = replace(from_hf_config(find_preset("opt-125m").config, "opt-125m"), head_dim=head_dim)
    assert devices_for(config) == devices
    for device in {"cpu", "cuda"} - set(devices):
        with pytest.raises(ModelError, match=f"m: heads of size {head_dim} are not supported"):
            check_computed(device, "m", config)


@pytest.mark.parametrize("width", [None, 120, 80, 60])
def test_a_narrow_terminal_has_fewer_columns_and_a_line_a_model(width):
    preset = [find_preset(name) for name in preset_names()]
    models = [NamedModel(p.name, p.hub_id, "L", 405_900_000_000, 131072, "chat", SIZES, False, ["cpu", "cuda"]) for p in preset]
    lines, without = table_lines(models, width)
    assert len(lines) == len(models) + 1
    assert width is None or max(map(len, lines)) <= width
    assert all("405.9 B" in line and "131,072" in line and "756.0" in line for line in lines[1:])
    assert ("GiB fp8" in lines[0]) == (width in (None, 120))
    shown = ("GiB fp8", "GiB float32", "GiB int8", "devices", "cached", "kind")
    assert without == [name for name in shown if name not in lines[0]]


@pytest.mark.parametrize("width", [60, 200])
def test_what_a_narrow_terminal_leaves_out_is_said(monkeypatch, capsys, width):
    monkeypatch.setattr(models_command, "terminal_width", lambda stream: width)
    with pytest.raises(SystemExit):
        main(["models", "opt-1*"])
    said = capsys.readouterr()
    assert ("devices" in said.out) == (width == 200) != ("devices" in said.err)
